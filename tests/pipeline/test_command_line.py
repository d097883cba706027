"""`python -m pipeline.run` as a user sees it: what it prints, what it returns, what it leaves alone."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from upath import UPath

from pipeline.command import Command, warn_of_loss
from pipeline.config.reference import all_entries
from pipeline.lease import Lease
from pipeline.run import main

ROOT = Path(__file__).parents[2]
CONFIG = """
output: {output}
tracking: null
sample: {{words: 2000, cola_train: 8, mrpc_train: 8, squad_train: 8, conll2000_train: 8, dev: 8}}
ingest: {{sources: ["{{sample}}/documents/*.txt"], heldout_fraction: 0.1}}
vocab: {{size: 200}}
shard: {{sequence_length: 32}}
pretrain: {{model: {{size: tiny}}, steps: 10, batch_size: 8, learning_rate: 5e-4, warmup_steps: 2}}
finetune: {{tasks: {{cola: {{data: "{{sample}}/tasks/CoLA"}}}}}}
"""
HEAVY = (
    "ray",
    "mlflow",
    "jax",
    "flax",
    "optax",
    "orbax",
    "pyarrow",
    "torch",
    "transformers",
    "tokenizers",
    "matplotlib",
)


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def config(tmp_path, output) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(output=output))
    return str(path)


ALONE = """
import sys
from pipeline.run import main
code = main(sys.argv[1:])
print(code, *(name for name in HEAVY if name in sys.modules))
"""


def run_alone(*arguments: str) -> tuple[int, list[str], str]:
    """Runs in a process of its own; returns its exit code, the heavy modules it imported, and what it printed."""
    command = [sys.executable, "-c", ALONE.replace("HEAVY", repr(HEAVY)), *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout, found.stderr
    last = found.stdout.splitlines()[-1].split()
    return int(last[0]), last[1:], found.stdout + found.stderr


def test_the_plan_is_a_line_a_stage_and_touches_nothing(config, output, capsys):
    assert main([config, "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["sample", "ingest", "vocab", "shard", "examples/cola", "pretrain", "export", "finetune/cola/seed-0"]
    names += ["report"]
    assert [line.split()[0] for line in lines] == names
    assert all(line.split()[1] == "new" for line in lines)
    assert not output.exists()


def test_the_plan_for_programs_is_a_json_object_a_line(config, output, capsys):
    assert main([config, "--plan", "--json", "--until", "vocab"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["stage"] for record in records] == ["sample", "ingest", "vocab"]
    assert all(record.keys() == {"stage", "status", "path", "why"} for record in records)
    assert records[0]["path"].startswith(str(output / "sample"))


def test_plan_and_mistakes_answer_without_importing_anything_heavy(config):
    for arguments, expected in (([config, "--plan"], 0), ([config, "--set", "pretrain.stepz=1"], 2)):
        code, heavy, _ = run_alone(*arguments)
        assert (code, heavy) == (expected, [])


def test_the_first_line_comes_before_anything_that_takes_time_is_imported(config):
    script = "import sys, builtins; from pipeline.run import main; says = builtins.print\n"
    script += "def spy(*text, **options):\n    says(*text, sorted({*SLOW} & {*sys.modules})); raise SystemExit\n"
    script += "builtins.print = spy; main(sys.argv[1:])"
    slow = ("pydantic", "yaml", "rich", "fsspec", "upath", "ray", "pipeline.command")
    command = [sys.executable, "-c", script.replace("SLOW", repr(slow)), config]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout == f"Reading {config}… []\n"


def test_a_wrong_config_is_told_on_stderr_before_anything_runs(config, output, capsys):
    assert main([config, "--set", "pretrain.steps=many"]) == 2
    captured = capsys.readouterr()
    assert "pretrain.steps" in captured.err
    assert captured.out == ""
    assert not output.exists()


@pytest.mark.parametrize("arguments", [["--only", "shards"], ["--until", "x"], ["--rerun", "x"], ["--set", "a"]])
def test_a_wrong_command_line_returns_2(config, arguments, capsys):
    assert main([config, *arguments]) == 2
    assert capsys.readouterr().err


def test_an_address_where_no_cluster_answers_is_named_with_who_gave_it(config):
    command = [sys.executable, "-m", "pipeline.run", config, "--until", "sample"]
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:9"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    assert found.returncode == 2
    assert "RAY_ADDRESS is 127.0.0.1:9, and no Ray cluster answers there" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_key_is_explained_with_meaning_type_default_and_source(capsys):
    assert main(["--explain", "finetune.tasks.cola.retries"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("finetune.tasks.NAME.retries\n    How often ")
    assert "    a whole number or null; default: null, which is the section's or 0\n" in text
    assert "stages/finetune/config.py:" in text
    assert main(["--explain", "cluster.mesh"]) == 0
    keys = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")]
    assert keys == ["cluster.mesh", "cluster.mesh.fsdp", "cluster.mesh.tensor"]


def test_every_key_has_a_meaning():
    entries = all_entries()
    assert [entry.key for entry in entries if not entry.meaning] == []
    assert len({entry.key for entry in entries}) == len(entries) > 150
    sources = {entry.source.partition(":")[0] for entry in entries}
    assert all((ROOT / source).is_file() for source in sources)


def test_a_key_that_is_none_is_told_the_nearest(capsys):
    assert main(["--explain", "pretrain.stepz"]) == 2
    assert "Did you mean `pretrain.steps`?" in capsys.readouterr().err
    assert main(["--explain", "batch_size"]) == 2
    assert "Did you mean one of these? pretrain.batch_size, finetune.batch_size" in capsys.readouterr().err


def test_without_a_config_the_command_names_one(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "configs/quickstart.yaml" in capsys.readouterr().err


def test_a_group_is_among_the_suggestions(config, capsys):
    assert main([config, "--plan", "--only", "finetun"]) == 2
    message = capsys.readouterr().err
    assert "Did you mean `finetune`?" in message
    assert "groups of stages: examples, finetune, finetune/cola" in message


def test_an_unknown_option_returns_2(config):
    with pytest.raises(SystemExit) as caught:
        main([config, "--nonsense"])
    assert caught.value.code == 2


def test_only_a_stage_whose_needs_are_not_done_says_which_and_the_command_that_does_them(config, output, capsys):
    assert main([config, "--only", "export", "--set", "seed=3"]) == 2
    message = capsys.readouterr().err
    assert "export needs vocab, which is not done (new)" in message
    assert "export needs pretrain, which is not done (new)" in message
    assert f"python -m pipeline.run {config} --set seed=3 --until pretrain" in message
    assert "--until vocab" not in message  # the other command does it too
    assert not output.exists()


@pytest.mark.parametrize("override", ["ingest.sources=[nowhere/*.txt]", "finetune.tasks.cola.data=/nowhere"])
def test_an_input_that_is_not_there_is_told_before_anything_runs(config, output, override, capsys):
    assert main([config, "--set", override]) == 2
    message = capsys.readouterr().err
    assert "nowhere" in message
    assert "matches no file" in message
    assert main([config, "--set", override, "--plan"]) == 2
    assert not output.exists()


def test_the_printed_config_has_all_defaults(config, capsys):
    assert main([config, "--print-config"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["pretrain"]["clip_norm"] == 1.0
    assert values["shard"]["sequence_length"] == 32


def test_the_command_to_resume_runs_the_same_stages_and_empties_none():
    command = Command(config="a b.yaml", only="finetune/*", until="report", rerun="shard", overrides=["seed=3"])
    assert command.as_text() == "python -m pipeline.run 'a b.yaml' --set seed=3 --only 'finetune/*' --until report"
    assert Command(config="a.yaml").as_text() == "python -m pipeline.run a.yaml"


@pytest.mark.usefixtures("ray_cluster")
class TestRunning:
    def test_a_second_run_does_nothing_and_starts_neither_ray_nor_mlflow(self, config, output, capsys):
        assert main([config, "--until", "sample"]) == 0
        assert "sample" in capsys.readouterr().out
        started = time.monotonic()
        code, heavy, text = run_alone(config, "--until", "sample")
        assert (code, heavy) == (0, [])
        assert "Nothing to do" in text
        assert time.monotonic() - started < 20
        assert not (output / "lease.json").exists()

    def test_an_output_with_brackets_in_its_name_is_no_pattern(self, config, tmp_path):
        (tmp_path / "exp1").mkdir()
        arguments = ["--set", f"output={tmp_path / 'exp[1]'}", "--until", "shard"]
        assert main([config, *arguments]) == 0
        assert len(list((tmp_path / "exp[1]").glob("shard/*/manifest.json"))) == 1

    def test_rerun_begins_anew_and_leaves_the_rest(self, config, output, capsys):
        main([config, "--until", "ingest"])
        (sample,) = (output / "sample").iterdir()
        (ingest,) = (output / "ingest").iterdir()
        before = (sample / "manifest.json").read_bytes()
        (ingest / "left").write_text("over")
        capsys.readouterr()
        assert main([config, "--until", "ingest", "--rerun", "ingest", "--plan"]) == 0
        assert "new" in capsys.readouterr().out.splitlines()[1]
        assert main([config, "--until", "ingest", "--rerun", "ingest"]) == 0
        assert (ingest / "manifest.json").exists()
        assert not (ingest / "left").exists()
        assert (sample / "manifest.json").read_bytes() == before

    def test_a_failure_returns_1_and_names_stage_cause_log_and_what_to_do(self, config, output, tmp_path, capsys):
        (tmp_path / "text.txt").write_bytes(b"good\n\nbad \xff\n")
        arguments = [config, "--until", "vocab", "--set", f"ingest.sources=[{tmp_path / 'text.txt'}]"]
        assert main(arguments) == 1
        message = capsys.readouterr().err
        (ingest,) = (output / "ingest").iterdir()
        assert "ingest failed: " in message
        assert "text.txt" in message
        assert f"log: {ingest / 'log.txt'}" in message
        assert "vocab was not run: it needs ingest, which failed" in message
        assert f"python -m pipeline.run {config} {shlex.join(arguments[3:])} --until vocab\n" in message

    def test_while_another_runner_works_it_says_who(self, config, output, capsys):
        from upath import UPath

        with Lease(UPath(output)):
            assert main([config, "--until", "sample"]) == 1
        assert f"process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_it_says_how_to_go_on_and_frees_the_output(config, output, number):
    command = [sys.executable, "-m", "pipeline.run", config, "--until", "sample", "--set", "sample.words=500000000"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests in the background of a shell ignore Ctrl-C, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(output.glob("sample/*/documents/*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Stopped." in stderr
    assert f"python -m pipeline.run {config} --set sample.words=500000000 --until sample\n" in stderr
    assert "Traceback" not in stderr
    assert not (output / "lease.json").exists()
    (folder,) = (output / "sample").iterdir()
    count = len(list(folder.rglob("*")))
    time.sleep(2)
    assert len(list(folder.rglob("*"))) == count, "the stage still writes"


def test_an_output_in_what_ray_uploads_is_warned_of(tmp_path, capsys):
    warn_of_loss(UPath(tmp_path / "outputs"))
    assert capsys.readouterr().err == ""
    warn_of_loss(UPath(tmp_path / "working_dir_files" / "_ray_pkg_4f089c20" / "outputs"))
    assert "--set output=/data/my-run" in capsys.readouterr().err
