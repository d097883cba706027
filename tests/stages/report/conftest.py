"""Reports that several tests read; `finished_runs` becomes importable."""

import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from finished_runs import RecordingTracker, run_report, whole_run


@pytest.fixture
def report(tmp_path: Path):
    """Runs the stage; returns its output folder."""
    return partial(run_report, tmp_path / "report")


@pytest.fixture(scope="module")
def tracker() -> RecordingTracker:
    """Told of the whole report."""
    return RecordingTracker()


@pytest.fixture(scope="module")
def whole_report(tmp_path_factory: pytest.TempPathFactory, tracker: RecordingTracker) -> Path:
    """The report of a finished run, which several tests read."""
    root = tmp_path_factory.mktemp("run")
    return run_report(root / "report", whole_run(root), tracker=tracker)
