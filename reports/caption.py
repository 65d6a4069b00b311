"""What stands under every table: what was counted, how, and what is not there."""

from __future__ import annotations

from reports.claims import NOT_RUN
from reports.formatting import plural, when
from reports.statistics import MIN_SEEDS_FOR_INTERVAL
from reports.table import ACCIDENTS, Table, lower_is_better
from reports.tuning import budget_sentence

PROBED = (
    "Linear probes on the features of networks that were trained on the source and then stand "
    "still. Block, regularisation (\u03bb of 1, 0.1, \u2026 1e-7), and the number of nearest "
    "neighbours (1, 5 or 20) are chosen on the target's validation split, which is cut from its "
    "training set; its test set is read once for each block."
)

TUNED = (
    "Fine-tuned: networks that were trained on the source go on learning on the target, with all "
    "of its training images, by the method of the row or, where it says so, by backprop; weights "
    "are those after the last epoch."
)

METRICS = {
    "accuracy_pct": "accuracy in percent",
    "loss": "loss",
    "train_images_per_s": "training speed in images per second",
    "eval_images_per_s": "prediction speed in images per second",
    "chain_longest": "layers in the longest differentiated chain",
}


def counts(table: Table) -> dict[str, int]:
    """How many wanted cells (method, column, seed) are in which state; stale ones count twice.

    `failed` covers out of memory, time-outs and killed runs. `unsupported` counts pairs of
    method and column, since no seed of those is wanted.
    """
    statuses = [run.status for _, _, run in table.runs]
    return {
        "wanted": len(statuses),
        "ok": statuses.count("ok"),
        "diverged": statuses.count("diverged"),
        "failed": sum(statuses.count(s) for s in ACCIDENTS),
        "running": statuses.count("running"),
        "missing": statuses.count("missing"),
        "stale": sum(run.stale for _, _, run in table.runs),
        "unsupported": sum(c.state == "unsupported" for c in table.cells.values()),
    }


def metric_text(table: Table) -> str:
    """'Test accuracy in percent'."""
    split = str(table.plan["headline"]["split"])
    name = METRICS.get(table.metric, table.metric.replace("_", " "))
    return (
        name.capitalize()
        if split in ("timings", "memory", "cost", "audit")
        else (f"{ {'val': 'Validation'}.get(split, split.capitalize()) } {name}")
    )


def count_text(table: Table) -> str:
    """'Of 42 cells (method, column, seed): 38 ok, 2 diverged, ...'."""
    n = counts(table)
    parts = [f"{n[state]} {state}" for state in ("ok", "diverged", "failed", "missing")]
    if n["running"]:
        parts.append(f"{n['running']} running")
    text = f"Of {plural(n['wanted'], 'cell')} (method, column, seed): {', '.join(parts)}"
    return f"{text}; {n['stale']} stale; {plural(n['unsupported'], 'pair')} not supported."


def _sizes(table: Table) -> str:
    """'Images for test (and validation): digits 359 (144), by chance 10 % right.'"""
    found: dict[str, str] = {}
    for _, column, run in table.runs:
        if run.status != "ok" or column.dataset in found:
            continue  # one run tells, and there may be very many
        metrics = (run.record or {}).get("metrics") or {}
        n = {
            split: next((m["n"] for m in metrics.get(split, {}).values() if m.get("n")), None)
            for split in ("test", "val")
        }
        if n["test"]:
            text = f"{column.dataset} {n['test']}" + (f" ({n['val']})" if n["val"] else "")
            if column.n_classes:
                text += f", by chance {100 / column.n_classes:.3g} % right"
            found[column.dataset] = text
    if not found:
        return ""
    return f"Images for test (and validation): {'; '.join(found.values())}."


def caption(table: Table, profile: bool = True) -> list[str]:
    """The sentences of the caption, in order, as plain text.

    Args:
        profile: with the profile, and what was asked for in its place.
    """
    numbers = sorted({c.n_wanted for c in table.cells.values() if c.n_wanted})
    n = "no" if not numbers else str(numbers[0])
    if len(numbers) > 1:
        n = f"{numbers[0]} to {numbers[-1]}"
    sentences = [f"{metric_text(table)}, {n} {'seed' if n == '1' else 'seeds'} per entry."]
    estimates = [c.estimate for c in table.cells.values() if c.estimate]
    if any(e.half_width is not None for e in estimates):
        sentences.append(
            "Mean \u00b1 half-width of the 95 % Student-t interval over seeds;"
            f" below {MIN_SEEDS_FOR_INTERVAL} ok seeds the single values are shown instead."
        )
    elif estimates:
        sentences.append(
            f"Single values, one per seed: fewer than {MIN_SEEDS_FOR_INTERVAL} ok seeds give no"
            " interval."
        )
    if table.kind == "transfer":
        tuned = [bool(column.protocol.get("tuning")) for column in table.columns]
        sentences += [PROBED] * (not all(tuned)) + [TUNED] * any(tuned)
    elif table.plan["headline"]["split"] in ("test", "val"):
        split = any(column.protocol.get("val_fraction", 0.1) for column in table.columns)
        sentences.append(
            "Weights are those after the last epoch; the test set is read once, at the end"
            + ("; the validation split is cut from the training set." if split else ".")
        )
    if said := budget_sentence(table):
        sentences.append(said)
    top = "lowest" if lower_is_better(table.metric) else "highest"
    if sizes := _sizes(table):
        sentences.append(sizes)
    if any(c.state == "unwanted" for c in table.cells.values()):
        sentences.append("\u2013: not part of this table.")
    if any(c.best for c in table.cells.values()):
        sentences.append(f"Bold: {top} mean of a column, among entries with all wanted seeds ok.")
    if any(c.tied for c in table.cells.values()):
        sentences.append(
            "\u2248: not distinguishable from the best with these seeds (t test, paired"
            " where seeds are the same, Welch's otherwise; 5 %, Holm-corrected for all pairs of the"
            " column, since the best was chosen by its seeds; no spread is taken to be less than"
            " rounding to whole images makes it)."
        )
    if counts(table)["stale"]:
        sentences.append("\u2020: made in part by older sources than those of the request (stale).")
    if any(c.shown_claims for c in table.cells.values()):
        sentences.append(
            "Published: the source's own number, with ours minus it in parentheses; where sources "
            "differ, the lowest and the highest."
        )
        if said := _not_run(table):
            sentences.append(said)
    sentences.append(count_text(table))
    newest = table.newest
    sentences.append(
        f"Newest record: {when(newest)}." if newest else "No cell has been run so far."
    )
    note = table.plan.get("profile_note")
    if profile:
        sentences.append(f"Profile {table.plan['profile']}{f': {note}' if note else '.'}")
    return sentences


def _not_run(table: Table) -> str:
    """How many of the published numbers stand beside runs under another protocol."""
    shown = [claim for cell in table.cells.values() for claim in cell.shown_claims]
    n = sum(claim.verdict == NOT_RUN for claim in shown)
    if not n:
        return ""
    which = "None of them was" if n == len(shown) else f"{n} of {len(shown)} were not"
    return f"{which} run as published: such a difference is no shortfall."
