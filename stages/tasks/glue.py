"""GLUE's tasks: the layout of their published TSVs, their labels and their official scores.

Classes are numbered as in Hugging Face's `nyu-mll/glue`, whose tables hold those numbers; the TSVs hold words.

Reference: Wang et al., GLUE, 2019 (arXiv 1804.07461).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from stages.tasks import scores
from stages.tasks.base import TaskOptions
from stages.tasks.classification import Classification, Layout
from stages.tasks.named import TASKS, TaskName
from stages.tasks.targets import Classes, Number, Score

_ACCURACY: Mapping[str, Score] = {"accuracy": scores.accuracy}
_MATTHEWS: Mapping[str, Score] = {"matthews": scores.matthews, "accuracy": scores.accuracy}
_PARAPHRASE: Mapping[str, Score] = {"accuracy": scores.accuracy, "f1": scores.binary_f1}
_ENTAILMENT = ("entailment", "neutral", "contradiction")
_TWO_WAY_ENTAILMENT = ("entailment", "not_entailment")
_ZERO_ONE = ("0", "1")
_SENTENCES = ("sentence1", "sentence2")


def make_cola(options: TaskOptions) -> Classification:
    """Acceptability of a sentence. Train and dev have no header: source, label, author's mark, sentence."""
    task = _make(
        TaskName.COLA,
        options,
        names=("unacceptable", "acceptable"),
        written=_ZERO_ONE,
        texts=("sentence",),
        score=_MATTHEWS,
    )
    return replace(task, tsv=replace(task.tsv, header=("source", "label", "mark", "sentence")))


def make_sst2(options: TaskOptions) -> Classification:
    """Sentiment of a phrase or sentence from a film review."""
    return _make(TaskName.SST2, options, names=("negative", "positive"), written=_ZERO_ONE, texts=("sentence",))


def make_mrpc(options: TaskOptions) -> Classification:
    """Whether two sentences are paraphrases."""
    names = ("not_equivalent", "equivalent")
    task = _make(TaskName.MRPC, options, names=names, written=_ZERO_ONE, texts=_SENTENCES, score=_PARAPHRASE)
    tsv = replace(task.tsv, texts=("#1 String", "#2 String"), label="Quality")
    return replace(task, tsv=tsv, unordered=True)


def make_stsb(options: TaskOptions) -> Classification:
    """How similar two sentences are, from 0 to 5."""
    return Classification(
        name=TaskName.STSB,
        tsv=Layout(texts=_SENTENCES, label="score"),
        tables=Layout(texts=_SENTENCES, label="label"),
        target=Number(
            names=("similarity",), low=0.0, high=5.0, scores={"spearman": scores.spearman, "pearson": scores.pearson}
        ),
        primary=TASKS[TaskName.STSB].primary,
        options=options,
        unordered=True,
    )


def make_qqp(options: TaskOptions) -> Classification:
    """Whether two questions ask the same. Two rows of the published training file are broken in the middle."""
    names, texts = ("not_duplicate", "duplicate"), ("question1", "question2")
    task = _make(TaskName.QQP, options, names=names, written=_ZERO_ONE, texts=texts, score=_PARAPHRASE)
    return replace(task, tsv=replace(task.tsv, label="is_duplicate", max_broken=2))


def make_mnli(options: TaskOptions) -> Classification:
    """Entailment over several genres; dev is of the genres of training (matched) and of others (mismatched)."""
    task = _make(TaskName.MNLI, options, names=_ENTAILMENT, texts=("premise", "hypothesis"))
    tsv = replace(task.tsv, texts=_SENTENCES, label="gold_label")
    return replace(task, tsv=tsv, dev_parts=("matched", "mismatched"))


def make_ax(options: TaskOptions) -> Classification:
    """GLUE's diagnostics: trained on MNLI, scored on diagnostic-full.tsv, which alone has labels."""
    mnli = make_mnli(options)
    return replace(
        mnli,
        name=TaskName.AX,
        target=Classes(names=_ENTAILMENT, written=_ENTAILMENT, scores=_MATTHEWS),
        primary=TASKS[TaskName.AX].primary,
        dev_tsv=replace(mnli.tsv, texts=("Premise", "Hypothesis"), label="Label"),
        dev_parts=(),
        dev_files=("diagnostic-full.tsv",),
    )


def make_qnli(options: TaskOptions) -> Classification:
    """Whether a sentence answers a question."""
    return _make(TaskName.QNLI, options, names=_TWO_WAY_ENTAILMENT, texts=("question", "sentence"))


def make_rte(options: TaskOptions) -> Classification:
    """Entailment, from four years of challenges."""
    return _make(TaskName.RTE, options, names=_TWO_WAY_ENTAILMENT, texts=_SENTENCES)


def make_wnli(options: TaskOptions) -> Classification:
    """Winograd sentences. Dev is adversarial: sentences of training with the other label."""
    names = ("not_entailment", "entailment")
    return _make(TaskName.WNLI, options, names=names, written=_ZERO_ONE, texts=_SENTENCES)


def _make(
    name: TaskName,
    options: TaskOptions,
    *,
    names: tuple[str, ...],
    texts: tuple[str, ...],
    written: tuple[str, ...] | None = None,
    score: Mapping[str, Score] = _ACCURACY,
) -> Classification:
    """A task with the columns of Hugging Face's tables, and a TSV with the same; labels are written as named."""
    written = written or names
    numbers = {label: number for number, label in enumerate(names)}
    return Classification(
        name=name,
        tsv=Layout(texts=texts, label="label", labels={label: number for number, label in enumerate(written)}),
        tables=Layout(texts=texts, label="label", labels={str(n): n for n in range(len(names))} | numbers),
        target=Classes(names=names, written=written, scores=score),
        primary=TASKS[name].primary,
        options=options,
    )


GLUE: Mapping[TaskName, Callable[[TaskOptions], Classification]] = MappingProxyType(
    {
        TaskName.COLA: make_cola,
        TaskName.SST2: make_sst2,
        TaskName.MRPC: make_mrpc,
        TaskName.STSB: make_stsb,
        TaskName.QQP: make_qqp,
        TaskName.MNLI: make_mnli,
        TaskName.QNLI: make_qnli,
        TaskName.RTE: make_rte,
        TaskName.WNLI: make_wnli,
        TaskName.AX: make_ax,
    }
)
