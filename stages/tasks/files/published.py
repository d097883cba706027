"""The files that built-in tasks publish, from published.yaml. Light, so that a config can be checked at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from stages.tasks.named import TaskName

MRPC_DEV_IDS = "mrpc_dev_ids.tsv"
MRPC_TRAIN = "msr_paraphrase_train.txt"
MRPC_TEST = "msr_paraphrase_test.txt"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file, or an archive of files.

    Attributes:
      url: Where it is.
      sha256: Of its bytes.
      name: Its name in the task's folder; None for a zip archive, which is unpacked there.
    """

    url: str
    sha256: str
    name: str | None = None


PUBLISHED: Mapping[TaskName, tuple[PublishedFile, ...]] = MappingProxyType(
    {
        TaskName(task): tuple(PublishedFile(**file) for file in files)
        for task, files in yaml.safe_load(Path(__file__).with_name("published.yaml").read_text()).items()
    }
)
