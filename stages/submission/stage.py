"""The submission stage: predictions for GLUE's test sets, in the archive that gluebenchmark.com takes."""

from stages.context import StageContext
from stages.submission.config import SubmissionConfig

VERSION = 1


def run(config: SubmissionConfig, context: StageContext) -> None:
    """Writes the task files, submission.zip of them, and submission.json, which says what predicted them.

    Raises:
      FileNotFoundError: A task was not fine-tuned, or has no test file.
      ValueError: A test file has not the published number of rows.
    """
    from cluster.distributed import configure

    configure(context.cluster)
    from stages.submission.archive import write_submission

    write_submission(config, context)
