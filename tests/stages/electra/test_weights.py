"""Every format of weights is read, and a broken or hostile file is refused by name."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from electra_miniature import tiny
from flax.serialization import msgpack_serialize

from stages.electra import ElectraForPreTraining, ElectraModel

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model() -> ElectraForPreTraining:
    return ElectraForPreTraining(tiny(num_hidden_layers=1)[0])


@pytest.fixture
def folder(model, tmp_path) -> Path:
    model.save_pretrained(tmp_path)
    return tmp_path


def replace_weights(folder: Path, name: str, data: bytes) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(data)


def flax_tree(tensors: dict[str, np.ndarray]) -> dict:
    """As `FlaxElectraForPreTraining.save_pretrained` of transformers 4 nests and names them."""
    tree: dict = {}
    for name, value in tensors.items():
        *parents, leaf = name.split(".")
        if leaf == "weight" and parents[-1] == "LayerNorm":
            leaf = "scale"
        elif leaf == "weight" and parents[-1].endswith("_embeddings"):
            leaf = "embedding"
        elif leaf == "weight":
            leaf, value = "kernel", value.T
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.ascontiguousarray(value)
    return tree


def assert_loads(folder: Path, model: ElectraForPreTraining) -> None:
    jax.tree.map(np.testing.assert_array_equal, ElectraForPreTraining.from_pretrained(folder).params, model.params)


def test_parameters_that_transformers_4_saved_from_flax_load(folder, model):
    tree = flax_tree(safetensors.numpy.load_file(folder / WEIGHTS))
    assert {"electra", "discriminator_predictions"} == set(tree)
    replace_weights(folder, "flax_model.msgpack", msgpack_serialize(tree))
    assert_loads(folder, model)


def test_an_encoder_saved_without_a_head_loads_below_one(folder, model, tmp_path):
    ElectraModel(model.config, params={name: model.params[name] for name in ("embeddings", "encoder")}).save_pretrained(
        tmp_path / "bare"
    )
    names = safetensors.numpy.load_file(tmp_path / "bare" / WEIGHTS)
    assert not any(name.startswith("electra.") for name in names)
    loaded = ElectraForPreTraining.from_pretrained(tmp_path / "bare")
    jax.tree.map(np.testing.assert_array_equal, loaded.params["encoder"], model.params["encoder"])


def test_shards_load_as_their_index_says(folder, model):
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file)
    index = json.dumps({"weight_map": {name: file for file, part in shards.items() for name in part}})
    replace_weights(folder, f"{WEIGHTS}.index.json", index.encode())
    assert_loads(folder, model)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no model-00002-of-00002"):
        ElectraForPreTraining.from_pretrained(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(folder, name):
    index = json.dumps({"weight_map": {"electra.embeddings.word_embeddings.weight": name}})
    replace_weights(folder, f"{WEIGHTS}.index.json", index.encode())
    with pytest.raises(ValueError, match="not a file of its folder"):
        ElectraForPreTraining.from_pretrained(folder)


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_truncated_safetensors_file_is_refused_by_name(folder, length):
    data = (folder / WEIGHTS).read_bytes()
    replace_weights(folder, WEIGHTS, data[:length])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a safetensors file, or damaged"):
        ElectraForPreTraining.from_pretrained(folder)


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_truncated_flax_file_is_refused_by_name(folder, length):
    data = msgpack_serialize(flax_tree(safetensors.numpy.load_file(folder / WEIGHTS)))
    replace_weights(folder, "flax_model.msgpack", data[:length])
    with pytest.raises(ValueError, match=r"flax_model\.msgpack: not parameters that flax saved, or damaged"):
        ElectraForPreTraining.from_pretrained(folder)


class Command:
    """A pickle that runs a shell command when it is read carelessly."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def archive(data: bytes, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        target.writestr("archive/data.pkl", data)
        target.writestr("archive/byteorder", "little")
    return file.getvalue()


@pytest.mark.parametrize("layout", ["zip", "stream", "second pickle of the stream"])
def test_a_pickle_that_would_run_code_runs_nothing(folder, tmp_path, layout):
    marker = tmp_path / "ran"
    hostile = pickle.dumps({"weight": Command(f"touch {marker}")}, protocol=2)
    pickle.loads(hostile)
    assert marker.exists()  # read carelessly, it does run
    marker.unlink()
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    data = {"zip": archive(hostile), "stream": hostile, "second pickle of the stream": magic + hostile}[layout]
    replace_weights(folder, "pytorch_model.bin", data)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin.*names posix\.system, which weights do not need"):
        ElectraForPreTraining.from_pretrained(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 not a zip", archive(b""), archive(pickle.dumps([1, 2])), archive(pickle.dumps({"a": 1}))]
)
def test_a_file_of_torch_without_tensors_is_refused_by_name(folder, data):
    replace_weights(folder, "pytorch_model.bin", data)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        ElectraForPreTraining.from_pretrained(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive(pickle.dumps({}) + b"]" * 100_000, compression=zipfile.ZIP_DEFLATED), "a compressed archive"),
        (archive(b"]" * (3 << 20)), "its list of tensors takes more than 2 MiB"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"]" * (3 << 20), "takes more than 2 MiB"),
    ],
    ids=["compressed", "many objects", "many objects in the stream"],
)
def test_a_file_of_torch_that_would_fill_the_memory_is_refused(folder, data, message):
    replace_weights(folder, "pytorch_model.bin", data)
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin.*{message}"):
        ElectraForPreTraining.from_pretrained(folder)


def test_a_vocabulary_with_more_tokens_than_rows_is_refused(folder, model):
    words = [f"w{number}" for number in range(model.config.vocab_size)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    assert_loads(folder, model)
    (folder / "vocab.txt").write_text("\n".join([*words, "one more"]) + "\n")
    with pytest.raises(ValueError, match=r"vocab\.txt has 201 tokens, the embedding table 200 rows"):
        ElectraForPreTraining.from_pretrained(folder)
