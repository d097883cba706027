"""Messages about runs: from stages and the runner to the recorder, from the recorder to the writer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from upath import UPath


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that begins or resumes. `key` identifies it for good: the same key always means the same run."""

    key: str
    name: str
    parent: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    is_new: bool = False


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Numbers of a run at one step; None: by the time since the run began."""

    key: str
    values: Mapping[str, float]
    step: int | None
    time: float


@dataclass(frozen=True, kw_only=True)
class Params:
    """Facts of a run."""

    key: str
    values: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the page of a run says of it, in Markdown."""

    key: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Files:
    """Contents of a run's artifacts, by path."""

    key: str
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An input of a run."""

    key: str
    name: str
    source: str
    context: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A Hugging Face folder to log as a model of a run."""

    key: str
    path: str
    name: str


@dataclass(frozen=True, kw_only=True)
class CloseRun:
    """A run that ended: FINISHED, FAILED or KILLED."""

    key: str
    status: str
    error: str | None = None


Message = OpenRun | Metrics | Params | Description | Files | Dataset | Model | CloseRun


@dataclass(frozen=True, kw_only=True)
class WriterSettings:
    """Where MLflow writes.

    Attributes:
      uri: Tracking server or database.
      artifacts: Artifact folder of a new experiment; None leaves it to the server.
      experiment: Its name.
      ledger: File that maps keys to runs.
    """

    uri: str
    artifacts: str | None
    experiment: str
    ledger: UPath
