"""What all tests share: the dataset folder, and the rule that a full check hides no skip.

Read from the environment:
  BPFREE_DATA=DIR        real datasets, laid out as torchvision does (DIR/MNIST/raw/...)
  BPFREE_REQUIRE_DATA=1  a test that finds no dataset folder fails instead of being skipped
  BPFREE_CHROMIUM=FILE   the browser that pages are tested in; default: chromium on the path
  BPFREE_REQUIRE_BROWSER=1, BPFREE_REQUIRE_LATEX=1, BPFREE_REQUIRE_SLURM=1
                         a test that finds no browser, pdflatex or Slurm fails likewise
  BPFREE_NO_SKIP=1       the session fails when a test was skipped that could have been run
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# The networks of the tests are tiny: a second thread only makes them wait for each other. Set
# before torch is imported; programs that tests start set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files whose tests run in one process each: a cluster, two processes that train all pairs, a large
# page and the browser that shows it.
TOGETHER = ("tests/slurm/test_real.py", "tests/test_ranks.py", "tests/test_page.py")

# What a machine may honestly lack. Any other skip hides a test that should have run.
TOLERATED = (
    "needs a GPU",
    "needs pdflatex",
    "needs Chromium",
    "needs a SLURM",
    "needs real photographs",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the class folder of handwritten digits as JPEG files in it."""
    from suites.images import sample

    return sample.make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real datasets, from BPFREE_DATA."""
    named = os.environ.get("BPFREE_DATA")
    if named:
        folder = Path(named)
        if not folder.is_dir():
            pytest.fail(f"BPFREE_DATA={named} is not a folder")
        return folder
    if os.environ.get("BPFREE_REQUIRE_DATA") == "1":
        pytest.fail("BPFREE_REQUIRE_DATA=1, but BPFREE_DATA names no dataset folder")
    pytest.skip("needs a dataset folder: set BPFREE_DATA")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests on real data, so that `-m "not data"` leaves them out.

    Files that stay in one process come first: others would be waiting for them in the end.
    """
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in TOGETHER)
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than cores: tests of clusters and of killed runs wait more than they compute."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spreads tests over processes one by one, but for files that share something costly."""
    from xdist.scheduler import LoadScopeScheduling

    class OneByOne(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid

    return OneByOne(config, log)


class _SkipWatch:
    """Collects the skips that are not tolerated."""

    def __init__(self) -> None:
        self.hidden: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # a whole module, by importorskip or at its top
            self._note(report.nodeid, report.longrepr)

    def _note(self, nodeid: str, longrepr: object) -> None:
        text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        reason = text.removeprefix("Skipped: ")
        if not reason.startswith(TOLERATED):
            self.hidden.append((nodeid, reason))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.hidden:
            terminalreporter.section("skipped, although BPFREE_NO_SKIP=1", red=True)
            for nodeid, reason in self.hidden:
                terminalreporter.line(f"{nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.hidden and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure(config: pytest.Config) -> None:
    # where tests are spread over processes, the first one hears of all skips
    if os.environ.get("BPFREE_NO_SKIP") == "1" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_SkipWatch(), "bpfree-skip-watch")
