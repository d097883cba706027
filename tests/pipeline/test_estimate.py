"""`python -m pipeline.estimate`, as a user sees it, and its arithmetic against the model itself."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest

from cluster.devices import DEVICES, device_of
from pipeline.estimate import main, parse_device
from stages.electra.footprint import model_parameters
from stages.electra.joint_model import Electra, split
from stages.electra.objectives.objective import ObjectiveConfig, ObjectiveKind
from stages.electra.sizes import EmbeddingSharing, ModelConfig, Size

ROOT = Path(__file__).parents[2]


def ask(capsys, *arguments: str, config: str = "base") -> tuple[int, str]:
    code = main([str(ROOT / "configs" / f"{config}.yaml"), *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_what_fits_is_said_in_about_fifty_words_with_its_time(capsys):
    code, text = ask(capsys, "--device", "h100:8")
    assert code == 0
    assert "base, 256 x 512 tokens a step in bfloat16, on 8 h100: fits." in text
    assert "all 766,000" in text
    assert "At 40% of the peak" in text
    assert len(text.split()) < 80


def test_what_does_not_fit_is_told_what_would_and_that_is_so(capsys):
    code, text = ask(capsys, "--device", "v5e:4")
    assert code == 1
    assert "DOES NOT FIT" in text
    advice = text.partition("With ")[2].partition(" it would")[0].split()
    assert advice[0] == "--set"
    assert ask(capsys, "--device", "v5e:4", *advice)[0] == 0


def test_more_devices_need_less_memory_and_time_each(capsys):
    few, many = (ask(capsys, "--device", f"h100:{count}")[1] for count in (8, 64))
    assert float(few.partition("about ")[2].split()[0]) > float(many.partition("about ")[2].split()[0])
    assert float(few.partition("step takes ")[2].split()[0]) > float(many.partition("step takes ")[2].split()[0])


@pytest.mark.parametrize(
    ("arguments", "config", "expected"),
    [
        (["--device", "h101:8"], "base", "h101 is not known. Did you mean `h100`? Known are h100-pcie, h100,"),
        (["--device", "h100:0"], "base", "0 is no number of devices; write for example h100:8"),
        (["--device", "h100:two"], "base", "two is no number of devices"),
        (["--device", "h100:7"], "base", "pretrain.batch_size is 256, must be a multiple of 7"),
        (["--device", "h100:8", "--efficiency", "40"], "base", "--efficiency is 40, must be above 0 and at most 1"),
        (["--device", "h100:8"], "finetune", "no section `pretrain`"),
        (["--device", "h100:8"], "nowhere", "Cannot read the config"),
        (["--device", "v4:8", "--set", "pretrain.compute_dtype=float32"], "base", "names no speed"),
        (["--device", "h100:8", "--set", "cluster.mesh.fsdp=3"], "base", "must divide the 8 devices"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_wrong(arguments, config, expected, capsys):
    code, text = ask(capsys, *arguments, config=config)
    assert code == 2
    assert expected in text


@pytest.mark.parametrize("size", [Size.TINY, Size.LARGE])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {}) for kind in ObjectiveKind]
    + [(ObjectiveKind.REPLACED_TOKEN_DETECTION, {"embedding_sharing": sharing}) for sharing in EmbeddingSharing]
    + [(ObjectiveKind.REPLACED_TOKEN_DETECTION, {"shared_encoder": True})],
)
def test_parameters_are_counted_as_the_model_has_them(size, kind, options):
    networks = ObjectiveConfig(kind=kind).networks(*ModelConfig(size=size, **options).resolve(1000))
    build = partial(Electra, *networks, kind=kind, **options)
    there = jax.eval_shape(lambda: split(build(key=jax.random.key(0)))[1])
    count = sum(leaf.size for leaf in jax.tree.leaves(there))
    assert model_parameters(*networks, kind=kind, **options) == count


def test_a_device_is_found_by_what_jax_calls_it():
    kinds = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H100 PCIe": "h100-pcie",
        "NVIDIA A100-SXM4-40GB": "a100-40gb",
        "NVIDIA A100-SXM4-80GB": "a100",
        "TPU v5 lite": "v5e",
        "TPU v5p": "v5p",
        "TPU v6 lite": "v6e",
    }
    for kind, name in kinds.items():
        assert device_of(kind) is DEVICES[name], kind
    assert device_of("cpu") is None
    assert parse_device("v5e") == ("v5e", 1)


def test_an_answer_needs_no_jax():
    code = "import sys, pipeline.estimate; print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
