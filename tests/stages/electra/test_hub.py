"""Models of a hub, served from this machine as huggingface.co serves them."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest
from electra_miniature import tiny
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from loopback_hub import MAIN, OLD, REVISIONS, Hub
from upath import UPath

from stages.context import StageContext
from stages.electra import ElectraConfig, ElectraForPreTraining, ElectraTokenizer, ModelCard
from stages.electra.files.continuation import load_networks
from stages.electra.files.hub import find_model_files, is_hub_id
from stages.electra.tokenizer import SPECIAL_TOKENS
from stages.finetune.config import FinetuneConfig

VOCABULARY = [*SPECIAL_TOKENS.values(), *(f"w{number}" for number in range(20))]


@pytest.fixture(scope="module")
def models() -> dict[str, ElectraForPreTraining]:
    return {commit: ElectraForPreTraining(tiny(num_hidden_layers=1)[0], seed=n) for n, commit in enumerate((MAIN, OLD))}


@pytest.fixture
def hub(models, tmp_path, monkeypatch) -> Iterator[Hub]:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = ElectraTokenizer.from_vocabulary(tmp_path / "vocab.txt")
    folders = {("some/electra", commit): tmp_path / commit for commit in models}
    for commit, model in models.items():
        model.save_pretrained(tmp_path / commit, tokenizer=tokenizer)
    with Hub(folders).serving(cache=tmp_path / "cache") as hub:
        yield hub


def assert_same(ours, theirs) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def test_a_hub_id_loads_at_any_revision_and_again_without_the_hub(hub, models, monkeypatch):
    assert_same(ElectraForPreTraining.from_pretrained("some/electra"), models[MAIN])
    assert_same(ElectraForPreTraining.from_pretrained("some/electra", revision="v1"), models[OLD])
    assert ElectraConfig.from_pretrained("some/electra", revision="v1") == models[OLD].config
    tokenizer = ElectraTokenizer.from_pretrained("some/electra")
    assert tokenizer.tokenize("w1 w2") == ["w1", "w2"]
    assert sum(path.endswith("model.safetensors") for path in hub.requests) <= 4  # one HEAD and one GET each
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert_same(ElectraForPreTraining.from_pretrained("some/electra"), models[MAIN])
    assert not hub.requests


def test_weights_of_one_format_are_downloaded(hub, models):
    for name in ("pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"):
        (hub.folders["some/electra", MAIN] / name).write_bytes(b"large")
    assert_same(ElectraForPreTraining.from_pretrained("some/electra"), models[MAIN])
    assert not [path for path in hub.requests if path.endswith((".bin", ".msgpack", ".h5"))]


@pytest.mark.parametrize(("name", "revision"), [("some/nothing", None), ("some/electra", "v9")])
def test_an_id_or_revision_that_the_hub_has_not_is_named(hub, name, revision):
    with pytest.raises(FileNotFoundError, match=f"{name}: no such folder, and the Hugging Face hub"):
        ElectraForPreTraining.from_pretrained(name, revision=revision)


@pytest.mark.parametrize("name", ["gpt2", "google/electra-small-discriminator", "a/b.c_d", "Foo-BAR_foo.bar123"])
def test_a_hub_id_is_a_name_or_owner_and_name_as_the_hub_itself_has_it(name):
    validate_repo_id(name)
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "/a/b", "./a", "../a", "~/a", "a/b/c", "a/", "/a", "s3://b/m", "s3://b", "hf://a/b", "a b", "a/b\n"),
        *("a--b", "a/b..c", "a.git", "-a/b", "a/.b", "café", "a" * 97, "{export}/discriminator"),
    ],
)
def test_all_else_is_no_hub_id(name):
    assert not is_hub_id(name)
    with pytest.raises(HFValidationError):
        validate_repo_id(name)


def test_a_folder_of_this_name_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("some/electra")
    (tmp_path / "some" / "electra").mkdir(parents=True)
    assert not is_hub_id("some/electra")


def commit(revision: str | None = None) -> str | None:
    (entry,) = find_model_files("some/electra", revision=revision)
    assert entry.location == f"hf://some/electra@{revision or 'main'}"
    return entry.etag


def test_a_revision_is_identified_by_its_commit(hub, capfd):
    assert commit() == commit("main") == MAIN
    assert commit("v1") == OLD
    hub.requests.clear()
    assert commit(OLD) == OLD
    assert not hub.requests, "a commit never changes"
    assert capfd.readouterr().err == ""


def test_a_branch_that_moves_is_noticed(hub, monkeypatch):
    assert commit() == MAIN
    monkeypatch.setitem(REVISIONS, "main", OLD)
    assert commit() == OLD


def test_without_the_hub_a_revision_is_what_it_was_last_and_else_its_name_alone(hub, monkeypatch):
    assert commit() == MAIN
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert commit() == MAIN
    assert commit("v1") is None
    assert not hub.requests


@pytest.mark.parametrize(("name", "revision"), [("some/nothing", None), ("some/electra", "v9")])
def test_an_id_or_revision_that_the_hub_has_not_is_noticed_before_anything_runs(hub, name, revision):
    with pytest.raises(FileNotFoundError, match=name):
        find_model_files(name, revision=revision)


def test_what_starts_from_a_revision_has_its_weights(hub, models):
    def weights(**revisions: str) -> np.ndarray:
        config = models[OLD].config
        found = load_networks(discriminator=("some/electra", config), generator=(None, None), revisions=revisions)
        return found["embeddings"]["word"]["embedding"]

    np.testing.assert_array_equal(weights(discriminator="v1"), models[OLD].params["embeddings"]["word"]["embedding"])
    np.testing.assert_array_equal(weights(), models[MAIN].params["embeddings"]["word"]["embedding"])


def test_what_is_fine_tuned_is_asked_for_at_its_revision(monkeypatch, tmp_path):
    from stages.finetune import worker

    class AskedError(Exception):
        pass

    def find(location: str, *, stack: object, revision: str | None) -> None:
        raise AskedError(location, revision)

    monkeypatch.setattr(worker, "find_folder", find)
    config = FinetuneConfig(task="cola", data=".", epochs=1, max_length=16, model="some/electra", revision="v1")
    with pytest.raises(AskedError) as asked:
        worker.finetune(config, StageContext(output=UPath(tmp_path)))
    assert asked.value.args == ("some/electra", "v1")


def test_a_home_folder_is_read(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    models[OLD].save_pretrained(tmp_path / "mine")
    assert_same(ElectraForPreTraining.from_pretrained("~/mine"), models[OLD])


def test_a_pushed_model_is_what_was_uploaded(hub, models, tmp_path):
    address = models[OLD].push_to_hub("some/copy", card=ModelCard(title="mine", summary="text", license="apache-2.0"))
    assert address.endswith(f"some/copy/commit/{MAIN}")
    uploads = hub.uploads["some/copy"]
    assert uploads.keys() == {"config.json", "model.safetensors", "README.md"}
    assert b"license: apache-2.0\n" in uploads["README.md"]
    for name, data in uploads.items():
        (tmp_path / "pushed").mkdir(exist_ok=True)
        (tmp_path / "pushed" / name).write_bytes(data)
    assert_same(ElectraForPreTraining.from_pretrained(tmp_path / "pushed"), models[OLD])


def test_saving_can_upload_too_under_the_folders_name_or_another(hub, models, tmp_path):
    models[OLD].save_pretrained(tmp_path / "mine", push_to_hub=True, token="hf_secret", private=True)
    models[OLD].save_pretrained(tmp_path / "mine", None, True, repo_id="some/other")
    assert hub.uploads.keys() == {"me/mine", "some/other"}
    assert hub.uploads["me/mine"]["config.json"] == (tmp_path / "mine" / "config.json").read_bytes()
    assert "Bearer hf_secret" in hub.tokens


def test_the_hub_is_asked_as_the_arguments_say(hub, models, tmp_path):
    names = {"token": "hf_secret", "cache_dir": tmp_path / "elsewhere"}
    assert_same(ElectraForPreTraining.from_pretrained("some/electra", **names), models[MAIN])
    assert hub.tokens == {"Bearer hf_secret"}
    assert list((tmp_path / "elsewhere").iterdir())
    hub.requests.clear()
    names["local_files_only"] = True
    assert_same(ElectraForPreTraining.from_pretrained("some/electra", **names), models[MAIN])
    assert ElectraConfig.from_pretrained("some/electra", **names) == models[MAIN].config
    assert len(ElectraTokenizer.from_pretrained("some/electra", **names)) == len(VOCABULARY)
    assert not hub.requests
    with pytest.raises(FileNotFoundError, match="some/electra"):
        ElectraForPreTraining.from_pretrained("some/electra", local_files_only=True)  # not in the usual cache
