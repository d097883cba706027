"""Which stages a config asks for, and who needs whom."""

from dataclasses import replace

import pytest
from upath import UPath

from pipeline.config.errors import ConfigError, UsageError
from pipeline.config.sections import load_config
from pipeline.dag import build_stages, select, with_ancestors
from pipeline.fingerprint import plain
from pipeline.plan import PlannedStage, make_plan
from stages import shard

TEXT = """
output: out
sample: {}
ingest: {sources: ["{sample}/documents/*.txt"]}
vocab: {size: 300}
shard: {sequence_length: 64}
pretrain: {model: {size: tiny}, steps: 100, batch_size: 8, learning_rate: 5e-4, warmup_steps: 10}
finetune:
  seeds: [0, 1]
  from_random: true
  tasks:
    cola: {data: "{sample}/tasks/CoLA"}
    mrpc: {data: /data/MRPC, seeds: [3]}
"""


@pytest.fixture
def stages(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)

    def stages(*overrides: str):
        return {stage.name: stage for stage in build_stages(load_config(path, overrides=overrides))}

    return stages


def locations(stage) -> list[str]:
    return [source.location for source in stage.sources]


def test_every_stage_needs_what_it_reads(stages):
    needs = {name: stage.needs for name, stage in stages().items()}
    assert needs["sample"] == ()
    assert needs["ingest"] == ("sample",)
    assert needs["vocab"] == ("ingest",)
    assert needs["shard"] == ("ingest", "vocab")
    assert needs["pretrain"] == ("vocab", "shard")
    assert needs["export"] == ("vocab", "shard", "pretrain")
    assert needs["examples/cola"] == ("sample",)
    assert needs["examples/mrpc"] == ()
    assert needs["finetune/cola/seed-0"] == ("sample", "examples/cola", "export")
    assert needs["finetune/mrpc/seed-3"] == ("examples/mrpc", "export")
    assert set(needs["report"]) == set(needs) - {"report"}


def test_every_task_seed_and_start_is_a_stage(stages):
    assert [name for name in stages() if name.startswith("finetune/")] == [
        "finetune/cola/seed-0",
        "finetune/cola/seed-1",
        "finetune/cola/random-0",
        "finetune/cola/random-1",
        "finetune/mrpc/seed-3",
        "finetune/mrpc/random-3",
    ]


def test_a_probed_task_is_fine_tuned_from_the_checkpoint_of_each_milestone_but_the_last(stages):
    found = stages("finetune.probes=[mrpc]", "pretrain.milestones=[10, 50, 100]")
    probes = {name: stage for name, stage in found.items() if name.startswith("probe/")}
    assert list(probes) == ["probe/mrpc/step-10", "probe/mrpc/step-50"]
    probe = probes["probe/mrpc/step-50"]
    assert (probe.config.step, probe.config.finetune.seed) == (50, 3)
    # It waits for the checkpoint, and not for the finished model.
    assert probe.needs == ("vocab", "examples/mrpc", "pretrain")
    assert set(found["report"].may_lack) > set(probes)


def test_a_probe_of_no_task_or_without_pretraining_is_a_mistake(stages):
    with pytest.raises(ConfigError, match="probes has rte, must be names of tasks: cola, mrpc"):
        stages("finetune.probes=[rte]")
    with pytest.raises(ConfigError, match="need pretrain"):
        stages("finetune.probes=[mrpc]", "finetune.model=some/model", "finetune.tasks.cola=null")


def test_a_probe_may_start_when_its_checkpoint_is_written(stages, tmp_path):
    early = stages("finetune.probes=[mrpc]")["probe/mrpc/step-50"].early
    assert not early({"pretrain": UPath(tmp_path)})
    (tmp_path / "checkpoints" / "50").mkdir(parents=True)
    assert not early({"pretrain": UPath(tmp_path)})
    (tmp_path / "checkpoints" / "50" / "commit_success.txt").touch()
    assert early({"pretrain": UPath(tmp_path)})


def test_an_adopted_vocabulary_does_not_wait_for_the_corpus(stages):
    vocab = stages("vocab.size=null", "vocab.file=vocab.txt")["vocab"]
    assert vocab.needs == ()
    assert locations(vocab) == ["vocab.txt"]


def test_with_a_given_model_nothing_is_pretrained(stages):
    assert list(stages("finetune.model=google/electra-small-discriminator", "finetune.from_random=false")) == [
        "sample",
        "examples/cola",
        "examples/mrpc",
        "finetune/cola/seed-0",
        "finetune/cola/seed-1",
        "finetune/mrpc/seed-3",
        "report",
    ]


def test_a_model_of_this_pipeline_is_still_pretrained(stages):
    assert "pretrain" in stages("finetune.model={export}/generator")


def test_raw_inputs_are_what_lies_outside_the_pipeline(stages):
    found = stages()
    assert found["ingest"].sources == ()
    assert found["examples/cola"].sources == ()
    assert locations(found["examples/mrpc"]) == ["/data/MRPC"]


def test_a_model_from_outside_is_a_source_and_one_of_this_pipeline_is_not(stages, tmp_path):
    for model in ("google/electra", "s3://bucket/electra", str(tmp_path)):
        assert locations(stages(f"finetune.model={model}")["finetune/mrpc/seed-3"]) == [model]
    assert locations(stages("finetune.model={export}/generator")["finetune/mrpc/seed-3"]) == []
    start = "pretrain.init_from={discriminator: google/electra, generator: s3://bucket/generator}"
    assert locations(stages(start)["pretrain"]) == ["google/electra", "s3://bucket/generator"]


def test_a_model_in_a_bucket_that_changes_is_noticed_and_a_readme_beside_it_is_not(stages, tmp_path):
    model = UPath("memory://dag-models/small")

    def plan() -> PlannedStage:
        made = tuple(stages(f"finetune.model={model}", "finetune.from_random=false").values())
        return next(p for p in make_plan(made, output=UPath(tmp_path)) if p.name == "finetune/mrpc/seed-3")

    for name in ("config.json", "model.safetensors", "README.md"):
        (model / name).write_text(name)
    before = plan()
    assert not before.faults
    (model / "README.md").write_text("changed")
    assert plan().fingerprint == before.fingerprint
    (model / "model.safetensors").write_text("changed")
    assert plan().fingerprint != before.fingerprint


def test_a_readme_beside_a_corpus_does_not_ingest_it_anew_and_a_changed_text_does(stages, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("a.txt", "README.md"):
        (corpus / name).write_text(name)

    def fingerprint() -> str:
        made = [stages(f"ingest.sources=[{corpus}]")["ingest"]]
        (planned,) = make_plan(made, output=UPath(tmp_path / "out"))
        return planned.fingerprint

    before = fingerprint()
    (corpus / "README.md").write_text("changed")
    (corpus / "LICENSE").write_text("new")
    assert fingerprint() == before
    (corpus / "a.txt").write_text("changed")
    changed = fingerprint()
    assert changed != before
    (corpus / "a.txt").rename(corpus / "b.txt")
    assert fingerprint() not in (before, changed)


def test_a_revision_is_of_the_model_beside_it(stages):
    model = ["finetune.model=google/electra", "finetune.revision=v1", "finetune.from_random=false"]
    own = "finetune.tasks.mrpc.model={finetune/cola/seed-0}/model"
    found = {name: getattr(stage.config, "revision", None) for name, stage in stages(*model, own).items()}
    assert (found["finetune/cola/seed-0"], found["finetune/mrpc/seed-3"]) == ("v1", None)
    other = ["finetune.tasks.mrpc.model=my/electra", "finetune.tasks.mrpc.revision=v2"]
    assert stages(*model, *other)["finetune/mrpc/seed-3"].config.revision == "v2"


@pytest.mark.parametrize(
    "overrides",
    [
        ["finetune.revision=v1"],
        ["finetune.model=./export", "finetune.revision=v1"],
        ["finetune.model=s3://bucket/model", "finetune.revision=v1"],
        ["pretrain.init_from={discriminator: /models/x, discriminator_revision: v1}"],
        ["pretrain.init_from={discriminator: google/electra, generator_revision: v1}"],
    ],
)
def test_a_revision_of_what_is_not_on_the_hub_is_a_mistake(stages, overrides):
    with pytest.raises(ConfigError, match=r"revision is v1, but the model, .*, is no hub id \(owner/name\)"):
        stages(*overrides)


def test_a_config_without_a_revision_has_the_identity_it_had_before_there_were_any(stages):
    run = stages()["finetune/mrpc/seed-3"].config
    assert "revision" not in plain(run, at="run")
    assert plain(replace(run, model="google/electra", revision="v1"), at="run")["revision"] == "v1"


@pytest.mark.parametrize("version", [None, "2"])
def test_a_stage_without_a_version_is_an_error_that_names_it(stages, monkeypatch, version):
    monkeypatch.setattr(shard, "VERSION", version)
    with pytest.raises(TypeError, match=r"stages\.shard declares no VERSION: a whole number"):
        stages()
    monkeypatch.delattr(shard, "VERSION")
    with pytest.raises(TypeError, match=r"stages\.shard declares no VERSION"):
        stages()


def test_a_reference_to_no_stage_is_a_mistake(stages):
    with pytest.raises(ConfigError, match=r"(?s)examples/cola.data.*Did you mean `sample`"):
        stages("finetune.tasks.cola.data={smaple}/tasks/CoLA")


def test_a_reference_to_a_later_stage_is_a_mistake(stages):
    with pytest.raises(ConfigError, match="no stage before ingest"):
        stages("ingest.sources=['{export}/x']")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("shard", ["shard"]),
        (
            "finetune/cola",
            ["finetune/cola/seed-0", "finetune/cola/seed-1", "finetune/cola/random-0", "finetune/cola/random-1"],
        ),
        ("finetune/*/seed-3", ["finetune/mrpc/seed-3"]),
    ],
)
def test_a_pattern_means_a_name_a_group_or_a_glob(stages, pattern, names):
    assert [stage.name for stage in select(tuple(stages().values()), pattern)] == names


def test_a_pattern_that_matches_nothing_is_a_mistake(stages):
    with pytest.raises(UsageError, match="Did you mean `shard`"):
        select(tuple(stages().values()), "shards")


def test_until_takes_everything_that_is_needed(stages):
    every = tuple(stages().values())
    names = [stage.name for stage in with_ancestors(every, select(every, "finetune/mrpc/seed-3"))]
    assert names == [
        *("sample", "ingest", "vocab", "shard", "examples/mrpc", "pretrain", "export"),
        "finetune/mrpc/seed-3",
    ]


def test_a_task_without_data_fetches_what_it_publishes(stages):
    made = stages("finetune.tasks.rte={}", "finetune.tasks.rte.seeds=[0, 1]")
    assert [name for name, stage in made.items() if getattr(stage.config, "published", ())] == ["examples/rte"]
    assert made["examples/rte"].sources == ()
    assert made["finetune/rte/seed-1"].config.data == "{examples/rte}"
    assert "examples/rte" in made["report"].may_lack


def test_a_named_file_is_relative_to_its_folder_and_two_are_all_that_is_read(stages):
    train, dev = "finetune.tasks.mrpc.train_file=a.tsv", "finetune.tasks.mrpc.eval_file=/elsewhere/b.tsv"
    assert locations(stages(train)["examples/mrpc"]) == ["/data/MRPC", "/data/MRPC/a.tsv"]
    assert locations(stages(train, dev)["examples/mrpc"]) == ["/data/MRPC/a.tsv", "/elsewhere/b.tsv"]


def test_a_users_file_beside_published_ones_is_read_too(stages):
    assert locations(stages("finetune.tasks.ax={train_file: /mnli/train.tsv}")["examples/ax"]) == ["/mnli/train.tsv"]
