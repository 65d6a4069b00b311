"""The command line: wrong requests end with one line and status 2, before any work."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from reports import build as reports
from results.store import Store
from suites import catalogue, options, run, status
from suites.engine.cell import Cell
from suites.engine.plugins import load_methods
from suites.request import expand
from suites.todo import store_plan

load_methods([])
ROOT = Path(__file__).parent.parent


def refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, default: bool = True
) -> str:
    """Runs a request that must be refused; returns its one line."""
    if default:
        arguments = [*arguments, "--results-dir", str(tmp_path / "r"), "--report-dir",
                     str(tmp_path / "p")]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        run.main(arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    assert not list(tmp_path.glob("r/*/*"))
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabel1"], ["unknown suite 'tabel1'", "did you mean 'table1'"]),
        (["table1", "--methods", "hhf"], ["unknown method 'hhf'", "did you mean 'hff'"]),
        (["table1", "--methods", "greedy-simm"], ["did you mean 'greedy-sim'"]),
        (["table1", "--datasets", "minst"], ["unknown dataset", "did you mean 'mnist'"]),
        (["table1", "--architectures", "resnet"], ["unknown architecture", "'resnet18'"]),
        (["table1", "--profile", "papr"], ["unknown profile", "did you mean 'paper'"]),
        (["table1", "--datasets", "mnist"], ["mnist", "--data-dir"]),
        (["table1", "--datasets", "mnist", "--data-dir", "/no/such"], ["/no/such", "not exist"]),
        (["audit", "--epochs", "3"], ["--epochs", "'audit'"]),
        (["audit", "--audit"], ["--audit", "'audit'"]),
        (["table1", "--methods", "ff-uniform"], ["'ff-uniform'", "suite 'ff-mnist'"]),
        (["table1", "--methods", "zzzz"], ["--plugin", "--list"]),
        (["table1", "--epochs", "0"], ["--epochs", "at least 1", "0"]),
        (["table1", "--epochs", "-3"], ["--epochs", "at least 1", "-3"]),
        (["table1", "--seeds", "0"], ["--seeds", "at least 1"]),
        (["table1", "--seeds", "-1"], ["--seeds", "at least 1", "-1"]),
        (["table1", "--seeds", "1000000"], ["20000000 cells", "at most 100000"]),
        (["table1", "--seeds", "many"], ["--seeds", "many"]),
        (["table1", "--workers", "0"], ["--workers", "at least 1"]),
        (["table1", "--precision", "int8"], ["precision 'int8'", "float32, bf16"]),
        (["audit", "--precision", "bf16"], ["--precision", "'audit'"]),
        (["table2", "--execution", "compiled"], ["execution 'compiled'", "did you mean 'compile'"]),
        (["audit", "--execution", "compile"], ["--execution", "'audit'"]),
        (["table2", "--workers", "2"], ["--workers 2", "'table2'", "one cell at a time"]),
        (["table2", "--epochs", "2"], ["--epochs", "'table2'"]),
        (["table2", "--datasets", "noise-3x3-c4"], ["unknown dataset"]),
        (["table1", "--frobnicate"], ["--frobnicate"]),
        (["table1", "--profle", "quick"], ["--profle", "did you mean --profile?"]),
        (["table1", "--data_dir", "d"], ["did you mean --data-dir?"]),
        (["table1", "--seed", "2"], ["did you mean --seeds?"]),
        (["table1", "--methods", "HFF"], ["did you mean 'hff'"]),
        (["table1", "--ranks", "3", "--device", "cpu"], ["cannot be shared out evenly"]),
        (["table1", "--plugin", "/no/such.py"], ["/no/such.py", "does not exist"]),
        (["table1", "--checkpoint-every", "-1"], ["--checkpoint-every"]),
        (["table1", "--checkpoint-every", "nan"], ["--checkpoint-every"]),
        (["table3", "--ranks", "2"], ["--ranks", "tables of accuracies", "'table3'"]),
        (["table4", "--methods", "nosuchmethod"], ["unknown method 'nosuchmethod'"]),
        (["table1", "--device", "tpu"], ["tpu"]),
        ([], ["which suite"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_requests(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(arguments, capsys, tmp_path)
    for word in words:
        assert word in line


def test_cuda_without_cuda(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in refused(["table1", "--device", "cuda"], capsys, tmp_path)


@pytest.mark.parametrize("option", ["--results-dir", "--report-dir"])
def test_unwritable_folders(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    other = {"--results-dir": "--report-dir", "--report-dir": "--results-dir"}[option]
    line = refused(
        ["table1", option, str(tmp_path / "file" / "sub"), other, str(tmp_path / "r")],
        capsys, tmp_path, default=False,
    )  # fmt: skip
    assert str(tmp_path / "file" / "sub") in line and option in line


def test_a_dry_run_moves_nothing_and_a_newer_record_is_not_trained_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    what = ["table1", "--methods", "backprop", "--architectures", "mlp-2x500", "--seeds", "1"]
    where = ["--results-dir", str(tmp_path / "r"), "--report-dir", str(tmp_path / "p")]
    assert run.main([*what, *where, "--dry-run"]) == 0
    (key,) = re.findall(r"^to run +(\w+)", capsys.readouterr().out, flags=re.MULTILINE)
    path = tmp_path / "r/records" / f"{key}.json"
    path.parent.mkdir(parents=True)
    for content in ('{"schema": 1, "tor', '{"schema": 99}'):
        path.write_text(content)
        assert run.main([*what, *where, "--dry-run"]) == 0
        assert "1 to do" in capsys.readouterr().out
        assert path.read_text() == content
    with pytest.raises(SystemExit) as end:
        run.main([*what, *where])
    line = capsys.readouterr().err
    assert end.value.code == 2 and "schema 99 is newer" in line and "--results-dir" in line
    assert path.read_text() == '{"schema": 99}'


def test_a_part_that_takes_the_place_of_the_whole_says_so(tmp_path: Path) -> None:
    """The page of the whole is not built again by `reports.build`, which knows one request."""
    store = Store(tmp_path)
    store.prepare()
    whole, part = (
        expand(catalogue.SUITES["table1"], "quick", f"python {methods}", methods)
        for methods in (["hff", "ff"], ["hff"])
    )
    assert store_plan(whole, store) == store_plan(whole, store) == ""
    assert "other cells, was: python ['hff', 'ff']" in store_plan(part, store)
    assert store_plan(whole, store) == ""


def test_fresh_shows_what_it_would_train_and_a_dry_run_what_is_stale(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = ["table1", "--methods", "backprop", "--architectures", "mlp-2x500", "--seeds", "1"]
    where = ["--results-dir", str(tmp_path / "r"), "--report-dir", str(tmp_path / "p")]
    assert run.main([*what, "--epochs", "1", *where]) == 0
    for more, n in (([], 0), (["--fresh"], 1)):
        capsys.readouterr()
        assert run.main([*what, "--epochs", "1", *where, *more, "--dry-run"]) == 0
        assert f"1 cell, {n} to do; nothing was run" in capsys.readouterr().out
    with monkeypatch.context() as other:
        other.setattr(Cell, "code_sha", lambda cell: "0" * 16)
        assert run.main([*what, "--epochs", "1", *where, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("stale ") and "1 of those on record" in said
    # a title is no markup, and a broken plan no trace
    store = Store(tmp_path / "r")
    plan = store.read_plan("table1")
    assert plan is not None
    store.write_plan(plan | {"command": "python -m suites.run '[/x]'"})
    assert status.main(["table1", "--results-dir", str(tmp_path / "r")]) == 0
    assert "'[/x]'" in capsys.readouterr().out
    audit = {"key": "0123456789abcdef", "row": "backprop", "column": plan["columns"][0]["id"],
             "code_sha": ""}  # fmt: skip
    store.write_plan(plan | {"audits": [audit], "audited": True})
    assert status.main(["table1", "--results-dir", str(tmp_path / "r")]) == 1
    assert "0 of 1 audit ok, 1 missing" in capsys.readouterr().out
    del plan["profile"]
    store.write_plan(plan)
    with pytest.raises(SystemExit):
        status.main(["table1", "--results-dir", str(tmp_path / "r")])
    assert "error: the plan has no 'profile'" in capsys.readouterr().err


def test_broken_plugins_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for content, words in (
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("def (", "SyntaxError"),
        ("x = 1", "registers no method"),
    ):
        plugin = tmp_path / "mine.py"
        plugin.write_text(content)
        line = refused(["table1", "--plugin", str(plugin)], capsys, tmp_path)
        assert str(plugin) in line and words in line


def test_status_of_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        status.main(["table1", "--results-dir", str(tmp_path)])
    assert end.value.code == 2
    assert "suites.run table1" in capsys.readouterr().err


def test_list_and_dry_run_do_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run.main(["--list"]) == 0
    out = capsys.readouterr().out
    for word in ("table1", "quick", "standard", "paper", "hff", "greedy-sim", "cifar100", "vgg8b"):
        assert word in out
    assert run.main(["table1", "--dry-run", "--results-dir", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "57 cells, 57 to do; nothing was run" in out
    assert "cannot     ff on digits/cnn-small" in out
    assert not (tmp_path / "r").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run.main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out and "--plugin" in out and "Ctrl-C" in out


def _run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "suites.run", "table1", "--methods", "backprop", "hff", "ff",
         "--epochs", "1", "--seeds", "1", "--results-dir", str(folder / "r"),
         "--report-dir", str(folder / "p"), *more],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_main_job_end_to_end(tmp_path: Path) -> None:
    """A small table from nothing; again without training; with a damaged record; with a plug-in."""
    first = _run(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "5 cells, 0 on record, 5 to run" in first.stdout
    paths = [Path(line) for line in first.stdout.splitlines() if line.startswith(str(tmp_path))]
    assert {p.suffix for p in paths} >= {".html", ".tex", ".csv", ".pdf"}
    assert all(p.stat().st_size > 0 for p in paths)
    assert (
        "the label is written into the first pixels"
        in (tmp_path / "p/table1/index.html").read_text()
    )

    again = _run(tmp_path)
    assert again.returncode == 0 and "5 on record, 0 to run" in again.stdout
    assert status.main(["table1", "--results-dir", str(tmp_path / "r")]) == 0

    victim = sorted((tmp_path / "r/records").glob("*.json"))[0]
    before = json.loads(victim.read_text())
    victim.write_text(victim.read_text()[:100])
    mended = _run(tmp_path)
    assert mended.returncode == 0 and "4 on record, 1 to run" in mended.stdout
    assert victim.name in mended.stderr and "unreadable record" in mended.stderr
    after = json.loads(victim.read_text())
    assert after["metrics"] == before["metrics"] and "moved to" in after["warnings"][-1]
    assert len(list((tmp_path / "r/set-aside").iterdir())) == 1

    from tests.test_contract import PLUGIN

    published = 'PUBLISHED = "mine,Mine,digits,mlp-2x500,,two of 500,98.7,,,,,,Table 7,"'
    (tmp_path / "mine.py").write_text(f"{PLUGIN}\n{published}\n")
    more = _run(tmp_path, "--plugin", str(tmp_path / "mine.py"), "--methods", "backprop", "mine")
    assert more.returncode == 0, more.stdout + more.stderr
    page = (tmp_path / "p/table1/index.html").read_text()
    assert "Mine" in page and "only fully connected blocks" in page
    assert "published 98.7" in page and "Table 7" in page
    assert (
        reports.main(
            [
                "table1",
                "--results-dir",
                str(tmp_path / "r"),
                "--report-dir",
                str(tmp_path / "again"),
            ]
        )
        == 0
    )  # by a process that knows no plug-in
    assert "published 98.7" in (tmp_path / "again/table1/index.html").read_text()


def test_only_runs_the_cells_that_are_named_and_keeps_the_whole_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What the page prints under a cell: that cell again, in another folder, with the same bits."""
    what = ["table1", "--methods", "backprop", "hff", "--architectures", "mlp-2x500"]
    what += ["--epochs", "1", "--seeds", "2"]
    where = ["--report-dir", str(tmp_path / "out"), "--results-dir"]
    assert run.main([*what, *where, str(tmp_path / "a")]) == 0
    keys = sorted(path.stem for path in (tmp_path / "a" / "records").iterdir())
    capsys.readouterr()
    assert run.main([*what, *where, str(tmp_path / "b"), "--only", keys[0][:9], keys[1]]) == 0
    assert "2 cells, 0 on record, 2 to run" in capsys.readouterr().out
    again = sorted((tmp_path / "b" / "records").iterdir())
    assert [path.stem for path in again] == keys[:2]
    for path in again:
        records = [json.loads((tmp_path / f / "records" / path.name).read_text()) for f in "ab"]
        assert records[0]["metrics"] == records[1]["metrics"]
        assert records[0]["curves"]["train_loss"] == records[1]["curves"]["train_loss"]
    assert len(Store(tmp_path / "b").read_plan("table1")["cells"]) == 4  # type: ignore[index]
    method = json.loads(again[0].read_text())["cell"]["method"]
    assert run.main([*what, *where, str(tmp_path / "b"), "--only", keys[0]]) == 0
    out = capsys.readouterr().out
    assert ("Backprop" in out, "HFF" in out) == (method == "backprop", method == "hff")
    with pytest.raises(SystemExit) as error:
        run.main([*what, *where, str(tmp_path / "c"), "--only", "zzz"])
    assert error.value.code == 2
    assert "--only zzz: no cell of this request" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to watch a process by")
def test_ctrl_c_while_torch_is_imported_is_one_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "suites.run", "--list"], cwd=ROOT, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        # as a terminal has it: what starts the tests may be in the background and ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "interrupted\n"
    assert process.returncode == 130


MYTABLE = """
from suites.suite import Suite, digits

SUITE = Suite(
    name="mytable", title="My table", methods=("backprop", "hff"),
    profiles={"quick": digits(("mlp-2x500",), note="a first look")},
)
"""


@pytest.fixture
def more_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds to the suites goes again with it."""
    monkeypatch.setattr(catalogue, "SUITES", known := dict(catalogue.SUITES))
    monkeypatch.setattr(options, "SUITES", known)


@pytest.mark.usefixtures("more_suites")
def test_a_suite_of_the_users_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mytable.py"
    path.write_text(MYTABLE)
    where = ["--plugin", str(path), "--results-dir", str(tmp_path / "r")]
    assert run.main(["mytable", "--dry-run", *where]) == 0
    assert "6 cells, 6 to do" in capsys.readouterr().out
    assert run.main(["table1", "--dry-run", *where]) == 0  # beside ours, and loaded again
    assert "hff on digits/mlp-2x500" in capsys.readouterr().out
    line = refused(["mytabel", "--plugin", str(path)], capsys, tmp_path)
    assert "did you mean 'mytable'" in line and "--plugin FILE.py" in line


@pytest.mark.usefixtures("more_suites")
def test_a_suite_without_a_quick_profile_has_a_first_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mytable.py"
    path.write_text(MYTABLE.replace('"quick"', '"mine"'))
    assert run.main(["mytable", "--dry-run", "--plugin", str(path)]) == 0
    assert "6 cells, 6 to do" in capsys.readouterr().out
    published = 'PUBLISHED = "hff,HFF,digits,mlp-2x500,,two of 500,98.7,,,,,other,Table 7,"'
    path = tmp_path / "other.py"
    path.write_text(f"{MYTABLE.replace('mytable', 'other')}{published}\n")
    refusal = refused(["other", "--dry-run", "--plugin", str(path)], capsys, tmp_path)
    assert "has no profile 'paper'" in refusal


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("mytable", "table1"), "there is a suite 'table1' already"),
        (("mytable", "../up"), "'../up' is no name for a suite"),
        (("mytable", "my-tune"), "not ending in -tune"),
        (("SUITE = Suite(", "SUITE = dict("), "SUITE is no suites.suite.Suite"),
        (("SUITE", "TABLE"), "registers no method"),
        (("suites.suite", "suites.sweet"), "No module named 'suites.sweet'"),
    ],
)
def test_files_with_a_suite_that_is_none(
    change: tuple[str, str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mytable.py"
    path.write_text(MYTABLE.replace(*change))
    assert words in refused(["table1", "--dry-run", "--plugin", str(path)], capsys, tmp_path)


ROW = 'Row("wide", "HFF, wide", "hff", {"margin": 0.4}, {"lr": LogUniform(1e-3, 0.1)})'


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"hff", {', '"hhf", {'), "unknown method 'hhf': did you mean 'hff'"),
        (('"margin": 0.4', '"margim": 0.4'), "row 'wide': method 'hff' has no setting 'margim'"),
        (('"lr": Log', '"rl": Log'), "row 'wide': its space has 'rl', which is no setting"),
        (("LogUniform(1e-3, 0.1)", "(1e-3, 0.1)"), "must be a LogUniform, Uniform or Choice"),
        (('"lr": Log', '"margin": Log'), "its settings fix 'margin', which its space tunes"),
        (('"wide", "HFF', '"backprop", "HFF'), "row 'backprop': two rows have this id"),
        (("HFF, wide", "Backprop (end to end)"), "two rows have the label 'Backprop (end to end)'"),
        (('"margin": 0.4', '"margin": "0.4"'), "'margin' is '0.4', and must be of the type of its"),
        (('"margin": 0.4', '"prototypes": 2.5'), "must be of the type of its default, 2"),
        (
            ('"lr": LogUniform(1e-3, 0.1)', '"aux_channels": LogUniform(64, 256)'),
            "gives fractions, and the default is 128: take a Choice of whole numbers",
        ),
        (("LogUniform(1e-3", "LogUniform('1e-3'"), "mytable.py, line 6: ValueError: LogUn"),
        (('("backprop"', '("backprob"'), "not known: did you mean 'backprop'?"),
        (('("mlp-2x500",)', '("mlp-2x500")'), "must be a tuple of names, as in ('mlp-2x500',)"),
        (("mlp-2x500", "mlp-2x5oo"), "unknown architecture 'mlp-2x5oo': did you mean"),
    ],
)
@pytest.mark.usefixtures("more_suites")
def test_a_suite_whose_author_has_to_mend_something(
    change: tuple[str, str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = MYTABLE.replace('"hff"', ROW).replace("import Suite", "import Row, Suite")
    text = "from methods.space import LogUniform\n" + text
    assert change[0] in text
    (tmp_path / "mytable.py").write_text(text.replace(*change))
    where = ["--dry-run", "--plugin", str(tmp_path / "mytable.py")]
    assert words in refused(["mytable", *where], capsys, tmp_path)
