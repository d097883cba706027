"""What a user may write in a config, and what is said of mistakes."""

import time
from pathlib import Path

import pytest
import yaml

from pipeline.command import format_config
from pipeline.config.errors import ConfigError, UsageError
from pipeline.config.sections import PipelineConfig, load_config
from pipeline.dag import build_stages

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
MINIMAL = """
output: out
ingest: {sources: [text/*.txt]}
vocab: {size: 300}
shard: {sequence_length: 64}
pretrain: {model: {size: tiny}, steps: 100, batch_size: 8, learning_rate: 5e-4, warmup_steps: 10}
"""
WITH_TASK = MINIMAL + "finetune: {tasks: {cola: {data: data/CoLA}}}\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def mistakes(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides=overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_project_loads_and_prints_to_itself(path, tmp_path):
    config = load_config(path)
    build_stages(config)
    printed = tmp_path / "printed.yaml"
    printed.write_text(format_config(config))
    assert load_config(printed) == config


def test_numbers_mean_what_they_look_like(write):
    text = MINIMAL.replace("steps: 100,", "steps: 1_000,") + "tracking: {experiment: 'no'}\n"
    config = load_config(write(text))
    assert config.pretrain.learning_rate == 5e-4
    assert config.pretrain.steps == 1000
    assert config.tracking.experiment == "no"


def test_words_that_yaml_1_1_takes_for_other_things_stay_words(write):
    config = load_config(
        write(MINIMAL + "tracking: {experiment: no}\nexport: {name: 2020-01-01, language: [no, on]}\n")
    )
    assert config.tracking.experiment == "no"
    assert config.export.name == "2020-01-01"
    assert config.export.language == ("no", "on")


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_valid_name(write):
    message = mistakes(write(MINIMAL.replace("warmup_steps", "warmup_step")))
    assert "pretrain.warmup_step" in message
    assert "config.yaml:6" in message
    assert "Did you mean `warmup_steps`?" in message
    assert "pretrain.warmup_steps" in message
    assert "is required: a whole number" in message


def test_an_unknown_key_deep_inside_is_not_ignored(write):
    assert "pretrain.model.sizes" in mistakes(write(MINIMAL), "pretrain.model.sizes=3")


def test_all_mistakes_are_shown_at_once(write):
    message = mistakes(
        write(WITH_TASK),
        "pretrain.model.size=smal",
        "vocab.size=many",
        "sharrd.seed=1",
        "pretrain.steps=1e3",
        "ingest.deduplicate=1",
        "finetune.tasks.coal.data=x",
    )
    assert "7 mistakes" not in message
    for part in (
        "6 mistakes",
        "Did you mean `small`?",
        'found: "many" (text)',
        "sharrd",
        "Did you mean `shard`?",
        "write 1000",
        "must be true or false",
        "Did you mean `cola`?",
    ):
        assert part in message


def test_a_value_out_of_range_is_told_with_its_numbers(write):
    message = mistakes(write(MINIMAL), "pretrain.batch_size=0")
    assert "pretrain" in message
    assert "batch_size is 0, must be at least 1" in message


@pytest.mark.parametrize("text", [".nan", ".inf"])
def test_a_number_that_is_none_is_refused(write, text):
    assert "must be finite" in mistakes(write(MINIMAL), f"pretrain.learning_rate={text}")


def test_a_sequence_longer_than_the_model_has_positions_names_both_numbers_and_keys(write):
    message = mistakes(write(MINIMAL), "shard.sequence_length=1024")
    for part in ("shard.sequence_length", "1024", "pretrain.model.max_position_embeddings", "512"):
        assert part in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.tasks.cola.patience=2", "tasks.cola: patience is 2, must be below evaluations = 1"),
        ("finetune.patience=2", "tasks.cola: patience is 2, must be below evaluations = 1"),
        ("finetune.max_length=5", "tasks.cola: max_length is 5, must be at least 16"),
        (
            "finetune.tasks.cola.train_file=a/Train.XLSX",
            "train_file is a/Train.XLSX, which cannot be read: write it as",
        ),
        ("finetune.tasks.cola.eval_file=dev.tar.gz", "eval_file is dev.tar.gz, which cannot be read"),
        ("finetune.max_length=513", "must be at most pretrain.model.max_position_embeddings = 512"),
    ],
)
def test_values_that_do_not_go_together_in_a_task_are_told_before_anything_runs(write, override, message):
    assert message in mistakes(write(WITH_TASK), override)


def test_a_batch_that_the_processes_of_a_fine_tuning_cannot_share_is_told_before_anything_runs(write):
    overrides = ("cluster.finetune_processes=2", "finetune.batch_size=3")
    message = mistakes(write(WITH_TASK), *overrides)
    assert "finetune.tasks.cola.batch_size" in message
    assert "must be a multiple of the 2 devices of cluster.finetune_processes = 2" in message


@pytest.mark.parametrize(
    ("overrides", "multiple"),
    [
        (("cluster.num_processes=3",), 3),
        (("cluster.num_processes=2", "pretrain.gradient_accumulation_steps=8"), 16),
        (("cluster.platform=cuda", "cluster.accelerators_per_process=3"), 3),
        (("cluster.platform=cuda", "cluster.accelerators_per_process=32", "cluster.mesh.tensor=2"), 16),
        (("cluster.platform=tpu", "cluster.accelerators_per_process=4", "cluster.num_processes=16"), 16),
    ],
)
def test_a_batch_that_the_devices_of_a_pretraining_cannot_share_is_told_before_anything_runs(
    write, overrides, multiple
):
    message = mistakes(write(MINIMAL), *overrides)
    assert "pretrain.batch_size" in message
    assert f"must be a multiple of {multiple}:" in message
    assert load_config(write(MINIMAL), overrides=(*overrides, f"pretrain.batch_size={3 * multiple}"))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("http://example.org/runs", "http:// cannot be written"),
        ("memory://runs", "memory:// cannot be written"),
        ("github://me:project@main/runs", "github:// cannot be written"),
        ("s4://bucket/runs", "fsspec knows no protocol s4://"),
        ("S3://bucket/runs", "Did you mean `s3`?"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_anything_runs(write, output, message):
    assert message in mistakes(write(MINIMAL), f"output={output}", "tracking=null")


@pytest.mark.parametrize("output", ["s3://bucket/runs", "gs://bucket/runs", "a/b", "~/runs", "hf://datasets/me/runs"])
def test_an_output_that_can_be_written_is_taken(write, output):
    assert load_config(write(MINIMAL), overrides=(f"output={output}", "tracking=null")).output == output


def test_inputs_longer_than_a_model_folder_has_positions_are_told_before_anything_runs(write, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    path = write(f"output: out\nfinetune: {{model: {model}, tasks: {{cola: {{data: d, max_length: 512}}}}}}\n")
    assert load_config(path)  # a folder without config.json is told with the other inputs
    (model / "config.json").write_text('{"max_position_embeddings": 128}')
    message = mistakes(path)
    for part in ("finetune.tasks.cola.max_length", "512", f"must be at most 128: the model {model}"):
        assert part in message
    assert load_config(path, overrides=("finetune.tasks.cola.max_length=128",))
    (model / "config.json").write_text('{"max_position_emb')
    assert "config.json: not valid JSON" in mistakes(path)


def test_an_objective_that_cannot_read_packed_rows_is_told_before_anything_runs(write):
    packed = "shard.packing=packed"
    message = mistakes(write(MINIMAL), packed, "pretrain.objective.kind=electric")
    assert "shard.packing" in message
    assert "must be pairs: electric reads one text a row" in message


def test_without_a_discriminator_the_generator_is_fine_tuned(write):
    path = write(MINIMAL + "finetune: {tasks: {cola: {data: d}}}\n")
    kind = "pretrain.objective.kind=masked_language_modeling"

    def model(*overrides: str) -> str | None:
        return load_config(path, overrides=overrides).finetune.model

    assert model() is None
    assert model(kind) == "{export}/generator"
    assert model(kind, "finetune.model='{export}/other'") == "{export}/other"


def test_pretraining_without_sources_says_so(write):
    message = mistakes(write(MINIMAL.replace("ingest: {sources: [text/*.txt]}\n", "")))
    assert "ingest.sources" in message
    assert "is required: a list, each text" in message


def test_fine_tuning_without_any_model_says_so(write):
    message = mistakes(write("output: out\nfinetune: {tasks: {cola: {data: d}}}\n"))
    assert "finetune.model" in message


def test_a_key_that_stands_twice_is_refused(write):
    message = mistakes(write(MINIMAL + "vocab: {size: 3}\n"))
    assert "stands twice" in message
    assert "config.yaml:4" in message


def test_text_that_is_not_yaml_is_named_with_its_place(write):
    with pytest.raises(UsageError, match=r"config\.yaml is not YAML"):
        load_config(write("output: [1,"))


ALIASES = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"b{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, r"config\.yaml stands for more than 100,000 values; are there aliases of aliases"),
        ("seed: 0\npretrain: &p\n  steps: [*p]\n", r"yaml:2: pretrain.steps\[0\] is an alias of what it stands in"),
        ("seed: " + "[" * 1000, r"config\.yaml is nested too deeply"),
        ("seed: " + "1" * 5000, r"seed"),
    ],
    ids=["aliases of aliases", "an alias of itself", "nested", "digits"],
)
def test_yaml_that_would_take_all_memory_or_has_no_end_is_refused_at_once(write, text, message):
    started = time.monotonic()
    with pytest.raises((UsageError, ConfigError), match=message):
        load_config(write(text))
    assert time.monotonic() - started < 5


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_extends_merges_deeply_and_relative_to_the_file(write, tmp_path):
    (tmp_path / "sub").mkdir()
    write(MINIMAL)
    child = write("extends: ../config.yaml\noutput: other\npretrain: {steps: 70}\n", "sub/child.yaml")
    config = load_config(child)
    assert (config.output, config.pretrain.steps, config.pretrain.batch_size) == ("other", 70, 8)


def test_a_mistake_in_an_extended_file_names_that_file(write):
    write(MINIMAL.replace("size: 300", "size: x"))
    message = mistakes(write("extends: config.yaml\n", "child.yaml"))
    assert "config.yaml:4" in message


def test_extending_in_a_circle_is_noticed(write):
    write("extends: b.yaml\n", "a.yaml")
    with pytest.raises(UsageError, match="circle"):
        load_config(write("extends: a.yaml\n", "b.yaml"))


def test_set_overrides_the_file_and_takes_yaml_values(write):
    config = load_config(
        write(MINIMAL),
        overrides=[
            "pretrain.learning_rate=1e-3",
            "ingest.sources=[a.txt, b.txt]",
            "vocab.size=null",
            "vocab.file=v.txt",
        ],
    )
    assert config.pretrain.learning_rate == 1e-3
    assert config.ingest.sources == ("a.txt", "b.txt")
    assert config.vocab.file == "v.txt"


def test_set_takes_a_reference_to_a_stage_without_quotes(write):
    config = load_config(write(WITH_TASK), overrides=["sample={}", "finetune.tasks.cola.data={sample}/tasks/CoLA"])
    assert config.finetune.tasks["cola"].data == "{sample}/tasks/CoLA"


@pytest.mark.parametrize("override", ["pretrain.steps", "=3", "pretrain..steps=3"])
def test_a_malformed_set_shows_how_it_is_written(write, override):
    with pytest.raises(UsageError, match=r"dotted\.key=value"):
        load_config(write(MINIMAL), overrides=[override])


def test_the_seed_is_the_default_of_every_stage(write):
    config = load_config(write(WITH_TASK + "seed: 5\n"), overrides=["sample={}", "shard.seed=9"])
    assert (config.sample.seed, config.shard.seed, config.pretrain.seed) == (5, 9, 5)
    assert "finetune/cola/seed-5" in [stage.name for stage in build_stages(config)]


def test_a_task_of_an_extended_config_can_be_taken_away(write):
    config = load_config(write(WITH_TASK), overrides=["finetune.tasks.mrpc.data=d", "finetune.tasks.cola=null"])
    assert list(config.finetune.tasks) == ["mrpc"]


def test_a_printed_config_is_yaml(write):
    values = yaml.safe_load(format_config(load_config(write(WITH_TASK))))
    assert values["pretrain"]["learning_rate"] == 0.0005


def test_tracking_can_be_switched_off(write):
    assert load_config(write(MINIMAL + "tracking: null\n")).tracking is None


def test_a_remote_output_needs_a_tracking_server(write):
    assert "tracking.uri" in mistakes(write(MINIMAL), "output=gs://bucket/out")


def test_config_is_immutable(write):
    config = load_config(write(MINIMAL))
    assert isinstance(config, PipelineConfig)
    with pytest.raises(AttributeError):
        config.output = "x"


OWN_TASK = """
finetune:
  tasks:
    tickets:
      data: data/tickets
      kind: classification
      texts: [subject, body]
      label: queue
      labels: [1, 2, other]
      class_weights: {1: 2, other: 0.5}
      metric: macro_f1
"""


def test_a_task_of_ones_own_is_declared_in_yaml_alone(write):
    config = load_config(write(MINIMAL + OWN_TASK))
    run = next(stage.config for stage in build_stages(config) if stage.name == "finetune/tickets/seed-0")
    assert (run.form.labels, run.form.class_weights) == (("1", "2", "other"), {"1": 2, "other": 0.5})
    for override, message in (
        ("finetune.tasks.tickets.kind=clasification", "Did you mean `classification`?"),
        ("finetune.tasks.tickets.lable=x", "Did you mean `label`?"),
        ("finetune.tasks.tickets.metric=f2", "metric is f2, must be one of accuracy, macro_f1, matthews"),
    ):
        found = mistakes(write(MINIMAL + OWN_TASK), override)
        assert "finetune.tasks.tickets" in found
        assert message in found


@pytest.mark.parametrize(
    ("name", "section", "task"),
    [("doc_stride", 64, 32), ("max_question_length", 48, 24), ("max_answer_length", 16, 8), ("n_best", 10, 5)],
)
def test_the_section_sets_windows_and_answers_of_all_tasks_unless_a_task_says_otherwise(write, name, section, task):
    path = write(MINIMAL + "finetune: {tasks: {squad_v1: {data: a}, squad_v2: {data: b}}}\n")
    overrides = [f"finetune.{name}={section}", f"finetune.tasks.squad_v2.{name}={task}"]
    runs = {stage.name: stage.config for stage in build_stages(load_config(path, overrides=overrides))}
    assert getattr(runs["finetune/squad_v1/seed-0"], name) == section
    assert getattr(runs["finetune/squad_v2/seed-0"], name) == task
    assert f"{name} is 0, must be at least 1" in mistakes(path, f"finetune.{name}=0")


def test_the_mesh_is_no_part_of_any_stage(write):
    path = write(MINIMAL)
    split = load_config(path, overrides=["cluster.mesh={fsdp: 2, tensor: 2}"])
    assert split.cluster.mesh.fsdp == 2
    assert build_stages(split) == build_stages(load_config(path))
