"""The contract test: named checks that every method must pass, ours and third parties' alike.

    python -m suites.check hff                 a method of ours
    python -m suites.check --plugin mine.py    the methods of a file

Each check takes a `Case` (one row of a table on one architecture, made small: suites/case.py) and
raises AssertionError with a sentence a method's author can act on. Its docstring says what would
go wrong in the science if it failed.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from methods import Method
from methods.base import resolve_config
from methods.registry import frame_in
from suites.auditing import locality
from suites.auditing.locality import flat_parameters
from suites.auditing.sharing import double_precision, first_difference
from suites.auditing.subject import STEPS, step
from suites.auditing.waiting import waits
from suites.case import BATCH, SIDE, Case, accuracy, differences, fit, predict, toy
from suites.engine import datasets
from suites.engine.evaluation import evaluate


def check_declaration(case: Case) -> None:
    """Without defaults for every setting a row of the table would not say what was run."""
    config = case.cls.Config
    assert dataclasses.is_dataclass(config), "Config must be a dataclass"
    assert vars(config)["__dataclass_params__"].frozen, "Config must be a frozen dataclass"
    config()
    assert isinstance(case.cls.version, int), "version must be an int"
    traits, reason = case.cls.traits, case.refusal()
    assert traits.readouts, "traits.readouts must name at least one readout"
    assert isinstance(traits.feedback, str), "traits.feedback must be a sentence, or ''"
    assert set(traits.sampled) <= set(traits.readouts), "traits.sampled names unknown readouts"
    assert reason is None or isinstance(reason, str), "refuse must return a sentence, or None"
    names = list(inspect.signature(case.cls.train_step).parameters)
    assert names == ["self", "x", "y", "phase", "progress"], (
        f"train_step takes {', '.join(names)}; it must take self, x, y, phase, progress"
    )
    method = case.make()
    for steps in (1, 7, 60):
        total = sum(n for _, n in method.phases(steps))
        assert total == steps, f"phases({steps}) add up to {total} steps, not {steps}"


def check_train_step(case: Case) -> None:
    """A step that keeps its graph leaks memory; one that writes to x corrupts the data set."""
    method = case.make()
    x, y = toy(BATCH)
    x_before, y_before = x.clone(), y.clone()
    out = step(method, x, y, method.phases(STEPS)[0][0], 0.0)
    assert isinstance(out, dict), (
        f"train_step returns {type(out).__name__}, not a dictionary of detached scalars"
    )
    assert torch.equal(x, x_before), "train_step writes to the images it was given"
    assert torch.equal(y, y_before), "train_step writes to the labels it was given"
    assert "loss" in out, "train_step must return a scalar called 'loss'"
    for name, value in out.items():
        assert isinstance(value, Tensor) and value.dim() == 0, f"{name!r} is not a scalar tensor"
        assert not value.requires_grad, f"{name!r} still holds its graph: return it detached"
        assert bool(torch.isfinite(value)), f"{name!r} is not finite in the first step"


def check_no_waiting(case: Case) -> None:
    """A step that asks the device for a number makes the GPU stand still until it has it."""
    method = case.make()
    x, y = toy(BATCH)
    found: list[str] = []
    for i, (phase, _) in enumerate(method.phases(STEPS)):
        step(method, x, y, phase, i / STEPS)  # the first of a phase may set something up
        with waits() as noted:
            step(method, x, y, phase, i / STEPS)
        found += noted
    assert not found, (
        f"train_step asks the device for a value, and waits for it, at {found[0]}: leave "
        "out .item(), float(), bool() and `if` on tensors, and masks as indices"
    )


def check_frozen(case: Case) -> None:
    """What is computed once for a whole phase must not change in it, nor mix images."""
    subject = case.subject()
    x, _ = toy(8, seed=3)
    for phase in subject.phases():
        method = subject.rehearse(phase, trained=2)
        name = method.phases(STEPS)[phase][0]
        with torch.no_grad():
            before = method.frozen(x, name).clone()
            alone = method.frozen(x[:1], name)
        subject.step(method, phase, 2)
        with torch.no_grad():
            after = method.frozen(x, name)
        assert torch.equal(before, after), f"frozen(x, {name!r}) changes during that phase"
        assert torch.allclose(before[:1], alone, atol=1e-4), (
            f"frozen(x, {name!r}) of one image depends on the other images of the batch"
        )


def check_shapes(case: Case) -> None:
    """Wrong shapes would silently broadcast in the accuracy."""
    for n_classes in (2, 4):
        method = case.make(n_classes=n_classes)
        fit(method, 0, 1)
        for b in (1, 5):
            x, _ = toy(b, n_classes)
            for readout in method.traits.readouts:
                scores = predict(method, x, readout)
                assert scores.shape == (b, n_classes), (
                    f"logits of {readout!r} have shape {tuple(scores.shape)} for {b} images and "
                    f"{n_classes} classes"
                )
                assert scores.dtype == torch.float32, f"logits of {readout!r} are {scores.dtype}"
                assert bool(torch.isfinite(scores).all()), f"logits of {readout!r} are not finite"
            with torch.no_grad():
                features = method.eval().features(x)
            method.train()
            assert features, "features() is empty"
            for layer, h in enumerate(features):
                assert h.dim() == 2 and len(h) == b, (
                    f"features()[{layer}] has shape {tuple(h.shape)}, not (B, D): flatten it"
                )


def check_learns(case: Case) -> None:
    """A rule whose objective has the wrong sign does not learn a separable problem."""
    right = 0.0
    for steps in (STEPS, 6 * STEPS, 50 * STEPS):  # most rules need the short run only
        method = case.make()
        last_phase = method.phases(steps)[-1][1]
        losses = fit(method, 0, steps, steps)[-last_phase:]
        start, end = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
        right = accuracy(method)
        if end < start and right > 0.8:
            return
    assert end < start, f"the loss does not fall on a separable problem: {start:.3g} to {end:.3g}"
    assert right > 0.8, f"only {right:.0%} right on a separable problem of 4 classes"


def check_every_unit_is_trained(case: Case) -> None:
    """A block that never moves is a random projection; its head may learn all the same."""
    steps = 12
    method = case.make()
    before = [flat_parameters(unit) for unit in method.units()]
    fit(method, 0, steps, steps)
    for i, (unit, start) in enumerate(zip(method.units(), before, strict=True)):
        for name, parameter in unit.named_parameters():
            assert bool(torch.isfinite(parameter).all()), f"{name} of unit {i} is not finite"
        assert not torch.equal(flat_parameters(unit), start), f"unit {i} is never updated"


def check_shuffled_labels(case: Case) -> None:
    """Accuracy above chance where there is nothing to learn means that labels leak somewhere."""

    def noise(n: int, seed: int) -> tuple[Tensor, Tensor]:
        rng = Generator().manual_seed(seed)
        images = torch.randint(256, (n, 1, SIDE, SIDE), dtype=torch.uint8, generator=rng)
        return images, torch.randint(4, (n,), generator=rng)

    method = case.make()
    phases = [name for name, n in method.phases(STEPS) for _ in range(n)]
    train = noise(10 * BATCH, seed=1)
    for i in range(STEPS):
        part = slice((i % 10) * BATCH, (i % 10 + 1) * BATCH)
        x = datasets.prepare(train[0][part], method.task)
        step(method, x, train[1][part], phases[i], i / STEPS)
    for readout in method.traits.readouts:
        # the engine's own evaluation, which holds the labels, is under test with the method
        rng = Generator().manual_seed(0)
        found = evaluate(method, noise(800, seed=2), method.task, readout, rng)["accuracy_pct"]
        # 25 % by chance, standard deviation 1.5 points
        assert 17 < found < 33, f"{readout!r} gets {found:.0f} % of random labels right, not 25 %"


def check_no_label_at_prediction(case: Case) -> None:
    """A prediction that sees the label is not a prediction."""
    names = list(inspect.signature(case.cls.logits).parameters)
    assert names == ["self", "x", "readout", "rng"], (
        f"logits takes {', '.join(names)}; it must take self, x, readout, rng and nothing else"
    )
    remembered = case.subject().remembering(trained=4)
    assert not remembered, (
        f"logits of {remembered[0]!r} on the last training batch depend on something that is not "
        "in state_dict(): labels of that batch may leak into the prediction"
    )


def check_prediction_changes_nothing(case: Case) -> None:
    """If reading the test set changed the weights, the order of evaluations would matter."""
    method = case.make()
    fit(method, 0, 2)
    before = copy.deepcopy(method.state_dict())
    x, _ = toy(8)
    for readout in method.traits.readouts:
        first, second = predict(method, x, readout), predict(method, x, readout)
        assert torch.equal(first, second), f"two predictions of {readout!r} with one seed differ"
    changed = list(differences(before, method.state_dict()))
    assert not changed, f"prediction changes the state: {changed[0]}"


def check_prediction_ignores_batch_mates(case: Case) -> None:
    """A prediction that depends on the other images of the batch is not of that image."""
    method = case.make()
    fit(method, 0, 3)
    x, _ = toy(8)
    others = torch.cat([x[:1], toy(7, seed=50)[0]])
    for readout in method.traits.readouts:
        one, two = predict(method, x, readout)[0], predict(method, others, readout)[0]
        tolerance = 1e-4 * (1 + float(one.abs().max()))
        assert torch.allclose(one, two, atol=tolerance), (
            f"logits of {readout!r} for one image change with the other images of the batch"
        )


def check_same_seed_same_bits(case: Case) -> None:
    """Without this a rerun could not confirm a number."""
    one, two = case.make(), case.make()
    fit(one, 0, 6, steps=6)
    fit(two, 0, 6, steps=6)
    changed = list(differences(one.state_dict(), two.state_dict()))
    assert not changed, f"two runs with one seed differ in {changed[0]}: draw noise from self.rng"


def check_resume(case: Case) -> None:
    """A preempted job would otherwise give other numbers than one left in peace."""
    whole, half, again = case.make(), case.make(), case.make(seed=7)
    fit(whole, 0, 6, steps=6)
    fit(half, 0, 3, steps=6)
    again.load_state_dict(copy.deepcopy(half.state_dict()))
    changed = list(differences(half.state_dict(), again.state_dict()))
    assert not changed, f"{changed[0]} is not restored by load_state_dict"
    fit(again, 3, 6, steps=6)
    changed = list(differences(whole.state_dict(), again.state_dict()))
    assert not changed, (
        f"{changed[0]} differs after a resumed run: something the update needs is not in "
        "state_dict()"
    )


def check_locality(case: Case) -> None:
    """A missing detach turns a local rule into back-propagation and usually raises accuracy."""
    traits, subject = case.cls.traits, case.subject()
    assert len(subject.make().units()) >= 2, "units() must name at least two parts"
    # Heads that start at zero carry no gradient yet, so look again when there is something to carry
    reached = locality.influences(subject, 0) | locality.influences(subject, 5)
    graph = locality.crossings(subject, 0) | locality.crossings(subject, 5)
    crossed = locality.confirmed(graph, reached)
    if traits.local_updates:
        assert not crossed, (
            "gradients of unit {} reach unit {}, but traits.local_updates is True "
            "(a missing detach?)".format(*min(crossed))
        )
        assert not reached or traits.feedback, (
            "the updates of unit {1} depend on the weights of unit {0}: a part that both use is "
            "trained by both, or an error signal of later units is used: declare in "
            "traits.feedback what feeds back".format(*min(reached))
        )
    else:
        assert reached, (
            "no unit's update depends on a later unit, but traits.local_updates is False"
        )


def check_auxiliary_parameters(case: Case) -> None:
    """Parameters that prediction needs, counted as auxiliary, would flatter a method's size."""
    method = case.make()
    steps = 2 * len(method.phases(STEPS))  # what is trained phase by phase is whole at the end
    fit(method, 0, steps, steps)
    x, _ = toy(8)
    before = predict(method, x)
    with torch.no_grad():
        for parameter in method.aux.parameters():
            parameter.add_(1.0)
    assert torch.equal(before, predict(method, x)), (
        "the headline prediction needs parameters that lie in self.aux"
    )
    counted = {id(p) for p in method.aux.parameters()}
    for name, parameter in method.named_parameters():
        if id(parameter) in counted:
            continue
        with torch.no_grad():
            kept = parameter.clone()
            parameter.add_(torch.randn(parameter.shape, generator=Generator().manual_seed(1)))
            moved = not torch.equal(before, predict(method, x))
            parameter.copy_(kept)
        assert moved, (
            f"the headline prediction does not need {name}: put it into self.aux (a bare parameter "
            "inside nn.ParameterList)"
        )


def check_passes(case: Case) -> None:
    """The cost of a prediction is the number of passes it takes: it is counted, not declared."""
    subject = case.subject()
    method = subject.make()
    for readout in method.traits.readouts:
        measured, declared = subject.passes(readout), method.eval_passes(readout)
        assert measured == declared, (
            f"a prediction by {readout!r} takes {measured:g} passes, eval_passes says {declared}"
        )


def check_other_ways(case: Case) -> None:
    """Two speeds can be compared only if both compute the same."""
    method = case.make()
    fit(method, 0, 3)
    method.eval()
    x, _ = toy(8)
    for readout in method.traits.readouts:
        expected = predict(method, x, readout)
        tolerance = 1e-4 * (1 + float(expected.abs().max()))
        for name, way in method.other_ways(readout).items():
            with torch.no_grad():
                found = way(x)
            assert torch.allclose(found, expected, atol=tolerance), (
                f"{readout!r}, {name}, gives other scores than logits: they differ by up to "
                f"{float((found - expected).abs().max()):.2g} (adding a constant counts, too)"
            )


def check_initial_weights(case: Case) -> None:
    """Seeds that all start from the same weights would make the spread look too small."""
    one, two = case.make(seed=0), case.make(seed=1)
    assert not torch.equal(flat_parameters(one.blocks), flat_parameters(two.blocks)), (
        "two seeds start from the same weights"
    )
    assert torch.initial_seed() == 1, "it seeds torch's global generator: draw from the one given"
    blocks = {id(p) for p in one.blocks.parameters()}
    others = dict(two.named_parameters())
    for name, parameter in one.named_parameters():
        drawn = id(parameter) not in blocks and len(parameter.unique()) > 8
        assert not (drawn and torch.equal(parameter, others[name])), (
            f"two seeds start with the same {name}"
        )


def check_tuned_settings(case: Case) -> None:
    """A setting that is tuned and read nowhere wastes a budget that others use."""
    config = resolve_config(case.cls, case.row.settings)
    for name, values in case.row.spaces().items():
        if name in case.row.settings:
            continue
        other = next(v for v in map(values.at, (0.75, 0.25)) if v != getattr(config, name))
        # some act on feature maps only
        places = dict.fromkeys((case.architecture, "cnn-tiny", "mlp-2x500"))
        changed = (
            any(True for _ in differences(_trained(place), _trained(place, **{name: other})))
            for place in (Case(case.row, architecture) for architecture in places)
            if place.refusal() is None
        )
        assert any(changed), f"{name!r} is tuned, but {other!r} in its place changes nothing"


def check_shared_batches(case: Case) -> None:
    """A rule that couples samples would be another rule where processes share a mini-batch."""
    with double_precision():
        place = first_difference(case.subject())
    if place is None:
        return
    how = "the gradient is another: what couples samples is computed on batch.whole(h)"
    if place == "loss":
        how = (
            "the loss is another: what couples samples is computed on batch.whole(h), noise per "
            "sample is drawn by batch.draw"
        )
    elif "rng" in place:
        how = "other numbers were drawn: noise per sample is drawn by batch.draw"
    raise AssertionError(
        f"two processes with half of each mini-batch do not make the step of one ({place} "
        f"differs): {how} (methods/batch.py)"
    )


def _trained(case: Case, **settings: Any) -> list[Any]:
    """All of a method, and what it predicts, after a few steps with settings."""
    row = dataclasses.replace(case.row, settings={**case.row.settings, **settings})
    method = Case(row, case.architecture).make()
    steps = 3 * len(method.phases(STEPS))
    fit(method, 0, steps, steps)
    x, _ = toy(8)
    told = [predict(method, x, readout) for readout in method.traits.readouts]
    return [method.state_dict(), told]


CHECKS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_")
}


def failures(case: Case, names: list[str] | None = None) -> dict[str, str]:
    """Runs checks on a case: name of each failed one -> why."""
    found = {}
    for name in names or list(CHECKS):
        try:
            CHECKS[name](case)
        except AssertionError as error:
            found[name] = str(error)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}{_place(error, case.cls)}"
    return found


def _place(error: Exception, cls: type[Method]) -> str:
    """Where in the method's own file an exception came from: " (mine.py:55 in train_step)"."""
    file = inspect.getfile(cls)
    frame = frame_in(file, error)
    return f" ({Path(file).name}:{frame.lineno} in {frame.name})" if frame else ""
