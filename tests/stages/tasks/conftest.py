"""A tokenizer of a few words, a network of one narrow layer, and task folders of a few lines."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jax
import pytest
from tokenizers import BertWordPieceTokenizer, Tokenizer
from upath import UPath

from stages.electra.config import ElectraConfig
from stages.electra.files.model_folder import save_pretrained
from stages.electra.joint_model import Electra, split
from stages.tasks.tokens import WordPiece

REAL_DATA = Path(__file__).parents[4] / "shared" / "data"

WORDS = """
the a cat dog sat ran on in mat house who what where did is red blue big small and fox jump ##s ##ing ##ed
, . ? ' " ( ) - 1 2 3 paris france capital of
""".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The published data sets."""
    if not REAL_DATA.is_dir():
        pytest.skip("no real data beside the repository (../shared/data)")
    return REAL_DATA


@pytest.fixture(scope="session")
def real_tokenizer(real_data: Path) -> WordPiece:
    """BERT's uncased vocabulary."""
    return WordPiece(BertWordPieceTokenizer(str(real_data / "vocab" / "vocab.txt"), lowercase=True)._tokenizer)


@pytest.fixture(scope="session")
def vocabulary() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *("##" + c for c in letters)]
    return list(dict.fromkeys(tokens))


@pytest.fixture(scope="session")
def raw_tokenizer(vocabulary: list[str]) -> Tokenizer:
    numbers = {token: number for number, token in enumerate(vocabulary)}
    return BertWordPieceTokenizer(numbers, lowercase=True)._tokenizer


@pytest.fixture(scope="session")
def tokenizer(raw_tokenizer: Tokenizer) -> WordPiece:
    return WordPiece(raw_tokenizer)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, vocabulary: list[str], raw_tokenizer: Tokenizer) -> UPath:
    """A Hugging Face folder of an untrained discriminator."""
    folder = UPath(tmp_path_factory.mktemp("model"))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer.json").write_text(raw_tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text("{}")
    config = ElectraConfig(
        vocab_size=len(vocabulary),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,  # a wide start and no dropout: a few dozen steps learn by heart
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    _, params = split(Electra(config, config, key=jax.random.key(0)))
    save_pretrained(
        folder,
        architecture="ElectraForPreTraining",
        config=config,
        params={
            "embeddings": params["embeddings"],
            "encoder": params["discriminator"],
            "head": params["discriminator_head"],
        },
        tokenizer=folder,
    )
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], UPath]:
    """Writes a file of this text and returns its path."""

    def write_file(name: str, text: str) -> UPath:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return UPath(path)

    return write_file


def squad(*paragraphs: tuple[str, list[tuple[str, str, str]]]) -> str:
    """A SQuAD file of paragraphs, each a context with (id, question, answer)."""
    return json.dumps(
        {
            "version": "1.1",
            "data": [
                {
                    "title": "t",
                    "paragraphs": [
                        {
                            "context": context,
                            "qas": [
                                {
                                    "id": name,
                                    "question": question,
                                    "answers": [{"text": answer, "answer_start": context.index(answer)}],
                                }
                                for name, question, answer in items
                            ],
                        }
                        for context, items in paragraphs
                    ],
                }
            ],
        }
    )


NAMES = ("cat", "dog", "fox", "mat", "house", "red")


@pytest.fixture
def task_data(tmp_path: Path, write: Callable[[str, str], UPath]) -> Path:
    """A folder a task with a few easy examples, the same for training and dev."""
    cola = "".join(f"x\t{n % 2}\t\tthe {'cat sat' if n % 2 else 'sat cat the on'} .\n" for n in range(8))
    mrpc_rows = ["1\t1\t2\tthe cat ran .\ta cat ran .", "0\t1\t2\tthe dog ran .\ta fox sat ."] * 4
    mrpc = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + "\n".join(mrpc_rows) + "\n"
    stsb = "sentence1\tsentence2\tscore\n"
    stsb += "".join(f"the {a} ran .\ta {b} sat .\t{n}\n" for n, (a, b) in enumerate(pairwise(NAMES)))
    mnli = "sentence1\tsentence2\tgold_label\n" + "".join(
        f"the {name} ran .\ta cat sat .\t{label}\n"
        for name, label in zip(NAMES, ("entailment", "neutral", "contradiction") * 2, strict=True)
    )
    conll = (
        "the DT B-NP\ncat NN I-NP\nsat VBD B-VP\non IN B-PP\nthe DT B-NP\nmat NN I-NP\n. . O\n\n"
        "a DT B-NP\nbig JJ I-NP\ndog NN I-NP\njumps VBZ B-VP\n. . O\n\n"
    )
    answers = squad(
        (
            "the cat sat on the mat . the dog ran in the house .",
            [("q1", "who sat ?", "the cat"), ("q2", "where did the dog ran ?", "the house")],
        ),
        ("paris is the capital of france .", [("q3", "what is the capital ?", "paris")]),
    )
    content = json.loads(answers)
    none = {"id": "q4", "question": "what is red ?", "answers": [], "is_impossible": True}
    content["data"][0]["paragraphs"][0]["qas"].append(none)
    with_none = json.dumps(content)
    for split_name in ("train", "dev"):
        write(f"cola/{split_name}.tsv", cola)
        write(f"mrpc/{split_name}.tsv", mrpc)
        write(f"stsb/{split_name}.tsv", stsb)
        write("mnli/train.tsv" if split_name == "train" else "mnli/dev_matched.tsv", mnli)
        write("mnli/dev_mismatched.tsv", mnli)
        write(f"squad_v1/{split_name}-v1.1.json", answers)
        write(f"squad_v2/{split_name}-v2.0.json", with_none)
        write(f"conll2000/{'test' if split_name == 'dev' else 'train'}.txt", conll)
    return tmp_path
