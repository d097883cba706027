"""The submission stage: predictions for GLUE's test sets, in the archive that gluebenchmark.com takes."""

from dataclasses import dataclass

from stages.context import StageContext


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """Which runs predict.

    Attributes:
      seed: The seed of every task; None takes each task's best on dev, and says so in submission.json.
      diagnostics: The file of AX; None looks for diagnostic.tsv in MNLI's folder, then in `diagnostic` beside it.
      partial: Tasks may be missing and test sets cut; the archive is then for looking at only.
    """

    seed: int | None = None
    diagnostics: str | None = None
    partial: bool = False


def run(config: SubmissionConfig, context: StageContext) -> None:
    """Writes the task files, submission.zip of them, and submission.json, which says what predicted them.

    Raises:
      FileNotFoundError: A task was not fine-tuned, or has no test file.
      ValueError: A test file has not the published number of rows.
    """
    from cluster.distributed import configure

    configure(context.cluster)
    from stages.tasks.submission import write_submission

    write_submission(config, context)
