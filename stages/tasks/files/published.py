"""The files that the tasks known by name publish: light, so that a config can be checked at once.

Checksums are those that Hugging Face's `datasets` recorded when it last fetched the same addresses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stages.tasks.named import TaskName

MRPC_DEV_IDS = "mrpc_dev_ids.tsv"
MRPC_TRAIN = "msr_paraphrase_train.txt"
MRPC_TEST = "msr_paraphrase_test.txt"

_GLUE = "https://dl.fbaipublicfiles.com/glue/data"
_SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data"
_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
_MRQA = "https://s3.us-east-2.amazonaws.com/mrqa/release/v2"
_CONLL2000 = "https://github.com/teropa/nlp/raw/master/resources/corpora/conll2000"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file, or an archive of files.

    Attributes:
      url: Where it is.
      sha256: Of its bytes.
      name: What it is called in the task's folder; None for a zip archive, which is unpacked.
    """

    url: str
    sha256: str
    name: str | None = None


def _glue(archive: str, sha256: str) -> tuple[PublishedFile, ...]:
    return (PublishedFile(url=f"{_GLUE}/{archive}.zip", sha256=sha256),)


def _files(folder: str, **sums: str) -> tuple[PublishedFile, ...]:
    return tuple(PublishedFile(url=f"{folder}/{name}", sha256=sha256, name=name) for name, sha256 in sums.items())


def _mrqa(name: str, *, train: str, dev: str) -> tuple[PublishedFile, ...]:
    """Their names are those of the sets; here they are those of the splits."""
    return tuple(
        PublishedFile(url=f"{_MRQA}/{split}/{name}.jsonl.gz", sha256=sha256, name=f"{split}.jsonl.gz")
        for split, sha256 in (("train", train), ("dev", dev))
    )


_MNLI = (
    *_glue("MNLI", "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"),
    PublishedFile(  # AX, which is predicted by who learnt MNLI
        url=f"{_GLUE}/AX.tsv",
        sha256="0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd",
        name="diagnostic.tsv",
    ),
)

PUBLISHED: Mapping[TaskName, tuple[PublishedFile, ...]] = MappingProxyType(
    {
        TaskName.COLA: _glue("CoLA", "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"),
        TaskName.SST2: _glue("SST-2", "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
        TaskName.MRPC: (
            *_files(
                _SENTEVAL,
                **{
                    MRPC_TRAIN: "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
                    MRPC_TEST: "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
                },
            ),
            *_files(_GLUE, **{MRPC_DEV_IDS: "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"}),
        ),
        TaskName.STSB: _glue("STS-B", "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
        TaskName.QQP: _glue("QQP-clean", "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
        TaskName.MNLI: _MNLI,
        TaskName.QNLI: _glue("QNLIv2", "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
        TaskName.RTE: _glue("RTE", "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
        TaskName.WNLI: _glue("WNLI", "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46"),
        TaskName.AX: _MNLI,
        TaskName.SQUAD_V1: _files(
            _SQUAD,
            **{
                "train-v1.1.json": "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
                "dev-v1.1.json": "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
            },
        ),
        TaskName.SQUAD_V2: _files(
            _SQUAD,
            **{
                "train-v2.0.json": "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
                "dev-v2.0.json": "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
            },
        ),
        TaskName.NEWSQA: _mrqa(
            "NewsQA",
            train="f1ccbf2d259ce1094aacde21a53592894248e5778814205dac94f0b086dbe968",
            dev="66bfb10cab2029bbc7d1afaece20c35fac341b1c179d15b70fde22a207f096ae",
        ),
        TaskName.NATURALQS: _mrqa(
            "NaturalQuestionsShort",
            train="6cdac324664b94b60be3203a077bf361d0bfa68a17af9b71def1186a6958a68c",
            dev="2ba8b2181b520f81b49d62c0e4a23819f33d5dec0e8cf4a623edcda0feb73530",
        ),
        TaskName.TRIVIAQA: _mrqa(
            "TriviaQA-web",
            train="61fad6884370408282ad3ed0b5f25a9e932d9a724b6929ea03ea5344ff0cd3f7",
            dev="faf8add436de5a5fa81071a4e7190850d7e9a20acc811439e8a127ba8ec25640",
        ),
        TaskName.SEARCHQA: _mrqa(
            "SearchQA",
            train="32cda932667b7b65ab3079a8271d4e5726b4b989d0b862b25c77eb03a661b609",
            dev="c84d2cc02cac5aa9d576ce1cd22900e9d75fe8a37bc795901c36cae6ef9e5ff0",
        ),
        TaskName.CONLL2000: _files(
            _CONLL2000,
            **{
                "train.txt": "82033cd7a72b209923a98007793e8f9de3abc1c8b79d646c50648eb949b87cea",
                "test.txt": "73b7b1e565fa75a1e22fe52ecdf41b6624d6f59dacb591d44252bf4d692b1628",
            },
        ),
    }
)
