"""Site files and flags: what reaches sbatch, and one clear line for what cannot."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from slurm import site
from slurm.site import Site, SiteError

WHOLE = """
partition = "gpu"
account = "lab"
qos = "long"
constraint = "a100"
gpus = 2
gpu_type = "a100"
cpus = 8
memory_gb = 1.5
minutes = 90
warning_s = 60
at_once = 5
exclusive = true
setup = ["module load cuda", "export X=1"]
srun = ["--container-image=image.sqsh"]

[extra]
nice = 100
"--mail-user" = "me@there"
"""


def parsed(*arguments: str) -> Site:
    p = argparse.ArgumentParser()
    site.add_flags(p)
    return site.from_flags(p.parse_args(arguments))


def script(where: Site) -> list[str]:
    text = _make_sbatch_string(command="python x", folder="/f", map_count=3, **where.parameters())
    return text.splitlines()


def test_all_settings_reach_the_script(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(WHOLE)
    where = parsed("--site", str(tmp_path / "site.toml"))
    lines = script(where)
    for wanted in (
        "partition=gpu", "account=lab", "qos=long", "constraint=a100", "gres=gpu:a100:2",
        "cpus-per-task=8", "mem=1536M", "time=90", "signal=USR2@60", "exclusive", "requeue",
        "nice=100", "mail-user=me@there",
    ):  # fmt: skip
        assert f"#SBATCH --{wanted}" in lines, wanted
    (srun,) = (line for line in lines if line.startswith("srun"))
    # the user's own come last, and win
    assert "--cpus-per-task=8 --container-image=image.sqsh" in srun
    assert where.setup == ("module load cuda", "export X=1")


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("gpus", "gpus=a100:2"),
        ("gpus-per-node", "gpus-per-node=a100:2"),
        ("gpus-per-task", "gpus-per-task=a100:2"),
        ("gres", "gres=gpu:a100:2"),
    ],
)
def test_ways_to_ask_for_gpus(flag: str, line: str) -> None:
    assert f"#SBATCH --{line}" in script(Site(gpus=2, gpu_type="a100", gpu_flag=flag))


def test_jobs_of_several_nodes() -> None:
    """Everything is said per node; a task that dies ends the others."""
    lines = script(Site(nodes=2, gpus=4, gpu_flag="gpus", cpus=8))
    for wanted in ("nodes=2", "ntasks-per-node=1", "cpus-per-task=8", "gpus-per-node=4"):
        assert f"#SBATCH --{wanted}" in lines, wanted
    assert any("srun" in line and "--kill-on-bad-exit=1" in line for line in lines)
    assert "#SBATCH --gres=gpu:4" in script(Site(nodes=2, gpus=4))
    assert not any("kill-on-bad-exit" in line for line in script(Site()))


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('partition = "gpu"\ncpus = 8\n')
    where = parsed("--site", str(tmp_path / "site.toml"), "--cpus", "3", "--memory-gb", "2.5")
    assert (where.partition, where.cpus, where.memory_gb) == ("gpu", 3, 2.5)


def test_without_srun_the_batch_shell_is_warned() -> None:
    assert "#SBATCH --signal=B:USR2@120" in script(Site(use_srun=False))


def test_what_jobs_listen_to_is_not_left_to_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    lines = script(Site(extra={"requeue": False, "nice": 5}))
    assert [line for line in lines if "--signal" in line] == ["#SBATCH --signal=USR2@120"]
    assert not any("requeue" in line for line in lines) and "#SBATCH --nice=5" in lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partitoin = 'a'", ["unknown setting 'partitoin'", "partition"]),
        ("cpus = 'four'", ["cpus is a whole number", "'four'"]),
        ("cpus = 0", ["cpus must be at least 1"]),
        ("cpus = true", ["cpus is a whole number"]),
        ("setup = 'one line'", ["setup is a list of strings"]),
        ("gpu_flag = 'gpu'", ["gpu_flag is one of gres, gpus"]),
        ("minutes = 1", ["warning_s = 120", "1 minutes"]),
        ("extra = 3", ["[extra]"]),
        ("use_srun = false\nsrun = ['--x']", ["use_srun is false"]),
        ("use_srun = false\nnodes = 2", ["nodes = 2", "use_srun is false"]),
        ("nodes = 2\nside_by_side = 2", ["nodes = 2", "side_by_side is 2"]),
        ("cpus = ", ["is not TOML"]),
    ],
)
def test_a_wrong_file_is_one_line(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(SiteError) as error:
        site.read(path)
    message = str(error.value)
    assert str(path) in message and all(word in message for word in words), message


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SiteError, match="cannot be read"):
        parsed("--site", "/no/such/file.toml")
