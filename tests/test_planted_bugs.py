"""Bugs that public re-implementations have, planted here: a named test must catch each one.

Each bug is one replacement in a copy of `methods/`; the named test is run on that copy and has to
fail. A replacement that no longer applies fails here, so that no bug goes stale unnoticed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# what is wrong -> (file, text, its replacement, the test that must notice)
BUGS = {
    "a missing detach between blocks": (
        "local_scores.py",
        "            loss.backward()  # frees this block's graph before the next one is built\n"
        "            total += loss.detach()\n"
        "            x = h.detach()\n",
        "            loss.backward(retain_graph=True)\n"
        "            total += loss.detach()\n"
        "            x = h\n",
        "tests/test_auditing.py::test_the_audit_tells_the_families_apart[mono-forward-expected4]",
    ),
    "SNR differences of the wrong sign: the loss of every block is maximised": (
        "noprop_dt.py",
        "(snr[1] - snr[0])",
        "(snr[0] - snr[1])",
        "tests/methods/test_noprop.py::test_loss_weights_are_positive",
    ),
    "the noise schedule is off by one step": (
        "denoising.py",
        "((steps - t) / steps + offset)",
        "((steps - t + 1) / steps + offset)",
        "tests/methods/test_noprop.py::test_schedule_against_the_formula",
    ),
    "the sampler drops z of the step before": (
        "noprop_dt.py",
        "self.embedding.mix(block(z, x).softmax(dim=1)) + b * z",
        "self.embedding.mix(block(z, x).softmax(dim=1))",
        "tests/methods/test_noprop.py::test_prediction_is_the_sampler_step_by_step",
    ),
    "the schedule is cumulated the wrong way round": (
        "denoising.py",
        "(1 - now) * (1 - alpha) / (1 - before)",
        "(1 - before) * (1 - alpha) / (1 - now)",
        "tests/methods/test_noprop.py::test_step_is_gaussian_conditioning[1]",
    ),
    "prototypes are not normalised": (
        "hff.py",
        "F.normalize(self.prototypes, dim=2)",
        "self.prototypes",
        "tests/methods/test_hff.py::test_hff_scores_are_cosines_against_numpy",
    ),
    "true labels among the negatives": (
        "goodness.py",
        "scores.scatter(1, y[:, None], -torch.inf).softmax(1)",
        "scores.softmax(1)",
        "tests/methods/test_ff.py::test_ff_wrong_labels_are_wrong_and_follow_the_readout",
    ),
    "peer normalisation is gated by the ReLU": (
        "ff.py",
        "gradient[:b] += peer_gradient(",
        "gradient[:b] += (h[:b] > 0) * peer_gradient(",
        "tests/methods/test_ff.py::test_ff_peer_normalisation_revives_dead_units",
    ),
    "a threshold of the wrong scale": (
        "goodness.py",
        "g, n, b = goodness(h), h[0].numel(),",
        "g, n, b = goodness(h), 2,",
        "tests/methods/test_ff.py::test_ff_update_is_the_released_rule",
    ),
    "batch norm of finished blocks keeps moving": (
        "layerwise.py",
        "x = block.eval()(x)",
        "x = block.train()(x)",
        "tests/methods/test_layerwise.py::test_only_the_block_of_the_phase_moves",
    ),
    "similarity of feature maps by their mean": (
        "greedy.py",
        "_spread(z.flatten(2))",
        "z.flatten(2).mean(dim=2)",
        "tests/methods/test_greedy.py::test_similarity_of_maps_uses_the_spread_over_space",
    ),
    "DFA's error with the wrong sign": (
        "direct_feedback_alignment.py",
        "(error @ b).view_as(h)",
        "(-error @ b).view_as(h)",
        "tests/methods/test_feedback_alignment.py::test_dfa_gradient_by_hand",
    ),
    "feedback alignment that returns errors through the weights": (
        "feedback_alignment.py",
        "delta @ ctx.feedback(weight)",
        "delta @ weight",
        "tests/methods/test_feedback_alignment.py::test_fa_gradient_by_hand",
    ),
    "a prediction that remembers the labels of the last training batch": (
        "local_scores.py",
        "        self.optimizer.step()\n",
        "        self.optimizer.step()\n"
        "        seen, given = F.one_hot(y, self.task.n_classes).float(), type(self).logits\n"
        "        self.logits = lambda x, *a, **k: (\n"
        "            seen if len(x) == len(seen) else given(self, x, *a, **k)\n"
        "        )\n",
        "tests/test_contract.py::test_contract[mono-forward-mlp-3x1000-no_label_at_prediction]",
    ),
}  # fmt: skip


def run(
    tests: Iterable[str], folder: Path, planted: tuple[str, str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs tests on a copy of the methods, with one text in one file replaced by another."""
    for part in ("suites", "results", "reports", "slurm", "tests", "pyproject.toml"):
        (folder / part).symlink_to(ROOT / part)
    shutil.copytree(ROOT / "methods", folder / "methods")
    if planted is not None:
        file, text, replacement = planted
        broken = folder / "methods" / file
        source = broken.read_text()
        assert text in source, f"{file} no longer holds {text!r}: plant this bug anew"
        broken.write_text(source.replace(text, replacement))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str, tmp_path: Path) -> None:
    file, text, replacement, test = BUGS[bug]
    done = run([test], tmp_path, (file, text, replacement))
    assert done.returncode == 1, f"{test} did not fail:\n{done.stdout[-2000:]}{done.stderr[-1000:]}"
    failed = re.search(r"^E +(AssertionError|assert )", done.stdout, flags=re.MULTILINE)
    assert failed, f"{test} broke on the way to what it tests:\n{done.stdout[-2000:]}"


def test_without_a_bug_the_same_tests_pass(tmp_path: Path) -> None:
    """Or they would fail on the copy for another reason than the bug."""
    done = run(dict.fromkeys(test for *_, test in BUGS.values()), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-1000:]
