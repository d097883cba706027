"""How fast text becomes rows: `ingest` and `shard` beside `tokenizers` and Hugging Face `datasets`, on two cores.

    python tests/benchmarks/corpus.py wikipedia_docs.txt.xz --vocab vocab.txt

The corpus, and the same several times over with every seventh word changed, a quarter of these into words that occur
nowhere else (so that five times the text has some three times its words, as real text would). All contestants run in
processes of their own, in turns; a ratio is of one turn, the table gives its quartiles. Start-up is the first run of a
process, of a few lines of text; it is shown apart. Times are given by the clock, and in processor time (of a contestant
and all its processes, a core's share), which the work of others on the machine disturbs less.

`tokenizers` is `encode_batch_fast` alone, of lines in memory to ids in memory. `datasets` goes from the file to grouped
rows: its loader of text, `map` in batches in two processes with `encode_batch_fast`, then `map` into rows.
"""

import argparse
import json
import lzma
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SEQUENCE_LENGTH = 128
CORES = 2


def changed(text: str, *, seed: int) -> str:
    """The text with every seventh word another one, unless a line begins or ends with it."""
    draw = random.Random(seed)
    words = text.split(" ")
    pool = [word for word in draw.choices(words, k=200_000) if word and "\n" not in word]
    for at in range(seed % 7, len(words), 7):
        if "\n" not in words[at]:
            word = draw.choice(pool)
            words[at] = word if draw.random() < 0.75 else f"{word[::-1]}{draw.choice(pool)[:2]}"
    return " ".join(words)


def cpu_seconds() -> float:
    """Processor time of this process and of all below it, a core's share."""
    import psutil

    itself = psutil.Process()
    total = 0.0
    for process in [itself, *itself.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # it has just ended, and is in its parent's times
        total += times.user + times.system + times.children_user + times.children_system
    return total / CORES


@contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """The most memory, in MB, that this process and the largest of those below it held for themselves meanwhile."""
    import psutil

    found = {"driver": 0, "worker": 0}
    is_over = threading.Event()
    itself = psutil.Process()

    def watch() -> None:
        while not is_over.wait(0.05):
            for process in [itself, *itself.children(recursive=True)]:
                try:
                    if process is itself or any(part.startswith("ray::") for part in process.cmdline()[:1]):
                        memory = process.memory_info()
                        name = "driver" if process is itself else "worker"
                        found[name] = max(found[name], (memory.rss - memory.shared) >> 20)
                except psutil.Error:
                    continue  # it has just ended

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def run_stages(source: str, folder: Path) -> dict[str, float]:
    """Seconds of the stages, one after the other in one process, as the pipeline runs them; of a few lines first."""
    import logging

    import ray
    from upath import UPath

    from stages.context import StageContext
    from stages.data.builders import Packing
    from stages.ingest import IngestConfig
    from stages.ingest import run as ingest
    from stages.shard import ShardConfig
    from stages.shard import run as shard

    vocab = UPath(os.environ["CORPUS_VOCAB"])
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[Any, StageContext], None], config: Any, **inputs: UPath) -> UPath:
        context = StageContext(output=UPath(folder / name), inputs=inputs)
        context.output.mkdir()
        begin, cpu = time.perf_counter(), cpu_seconds()
        run(config, context)
        seconds[name] = time.perf_counter() - begin
        seconds[f"{name} cpu"] = cpu_seconds() - cpu
        return context.output

    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with peaks() as found:
        for text, first in ((Path(source).with_name("tiny.txt"), "first "), (Path(source), "")):
            ingested = timed(f"{first}ingest", ingest, IngestConfig(sources=(str(text),)))
            for packing in (Packing.PACKED, Packing.PAIRS):
                config = ShardConfig(packing=packing, sequence_length=SEQUENCE_LENGTH)
                timed(f"{first}{packing}", shard, config, ingest=ingested, vocab=vocab)
    return seconds | found


def run_tokenizers(source: str, folder: Path) -> dict[str, float]:
    """MB a second of `encode_batch_fast` on all cores."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{os.environ['CORPUS_VOCAB']}/tokenizer.json")
    with Path(source).open("rb") as file:
        lines = [line for line in file.read(16 << 20).decode(errors="ignore").split("\n") if line]
    size = sum(len(line.encode()) for line in lines)
    tokenizer.encode_batch_fast(lines[:100], add_special_tokens=False)
    begin, cpu = time.perf_counter(), cpu_seconds()
    tokenizer.encode_batch_fast(lines, add_special_tokens=False)
    return {"rate": size / 1e6 / (time.perf_counter() - begin), "rate cpu": size / 1e6 / (cpu_seconds() - cpu)}


def run_datasets(source: str, folder: Path) -> dict[str, float]:
    """Seconds from the file to grouped rows."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_OFFLINE": "1"}
    begin = time.perf_counter()
    import datasets
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    path = f"{os.environ['CORPUS_VOCAB']}/tokenizer.json"

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        tokenizer = Tokenizer.from_file(path) if "tokenizer" not in held else held["tokenizer"]
        held["tokenizer"] = tokenizer
        return {"ids": [one.ids for one in tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)]}

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = [token for line in batch["ids"] for token in line]
        return {"ids": [ids[at : at + SEQUENCE_LENGTH] for at in range(0, len(ids), SEQUENCE_LENGTH)]}

    held: dict[str, Any] = {}
    lines = datasets.load_dataset("text", data_files=source, split="train", cache_dir=str(folder))
    encoded = lines.map(encode, batched=True, num_proc=CORES, remove_columns=["text"])
    rows = encoded.map(group, batched=True, num_proc=CORES)
    return {"seconds": time.perf_counter() - begin, "seconds cpu": cpu_seconds(), "rows": len(rows)}


CONTESTANTS = {"stages": run_stages, "tokenizers": run_tokenizers, "datasets": run_datasets}


def measure(name: str, source: Path, vocab: Path) -> dict[str, float]:
    """One turn of a contestant, in a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "CORPUS_VOCAB": str(vocab),
        "RAY_ADDRESS": "local",
        "RAY_worker_niceness": "0",  # all contestants are as urgent
        "RAY_raylet_start_wait_time_s": "600",  # a machine at work starts Ray slowly; that is not timed
        "RAYON_NUM_THREADS": str(CORES),
    }
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        command = [sys.executable, __file__, str(source), "--turn", name, "--folder", folder]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{name} failed on {source}:\n{found.stderr[-4000:]}")
    return json.loads(found.stdout.splitlines()[-1])


def prepare(corpus: Path, vocab: Path, folder: Path, *, copies: int) -> dict[str, Path]:
    """The texts to measure with, and the vocabulary as the stage leaves it."""
    from upath import UPath

    from stages.context import StageContext
    from stages.vocab import VocabConfig
    from stages.vocab import run as run_vocab

    data = corpus.read_bytes()
    text = (lzma.decompress(data) if corpus.suffix == ".xz" else data).decode()
    paths = {name: folder / f"{name}.txt" for name in ("tiny", "small", "large")}
    paths["tiny"].write_text("\n\n".join(text.split("\n\n", 20)[:20]), encoding="utf-8")
    paths["small"].write_text(text, encoding="utf-8")
    with paths["large"].open("w", encoding="utf-8") as file:
        for seed in range(copies):
            file.write(f"{changed(text, seed=seed) if seed else text}\n\n")
    output = UPath(folder / "vocab")
    output.mkdir()
    run_vocab(VocabConfig(file=str(vocab)), StageContext(output=output))
    return paths | {"vocab": folder / "vocab"}


def turn(paths: dict[str, Path], *, has_datasets: bool) -> dict[str, tuple[float, float]]:
    """One turn of all: what the table shows, by the clock and in processor time."""
    stages = {name: measure("stages", paths[name], paths["vocab"]) for name in ("small", "large")}
    reference = measure("tokenizers", paths["small"], paths["vocab"])
    loaded = {}
    if has_datasets:
        loaded = {name: measure("datasets", paths[name], paths["vocab"]) for name in ("tiny", "small")}
    clock, cpu = (table(paths, stages, reference, loaded, unit=unit) for unit in ("", " cpu"))
    found = {name: (clock[name], cpu[name]) for name in clock}
    for name in ("driver", "worker"):
        found[f"peak of the {name}, MB"] = (max(each[name] for each in stages.values()), float("nan"))
    return found


def table(
    paths: dict[str, Path],
    stages: dict[str, dict[str, float]],
    reference: dict[str, float],
    loaded: dict[str, dict[str, float]],
    *,
    unit: str,
) -> dict[str, float]:
    """The figures of one turn in one unit of time."""
    mb = {name: paths[name].stat().st_size / 1e6 for name in stages}

    def whole(name: str, *kinds: str) -> float:
        return sum(stages[name][kind + unit] for kind in kinds)

    def rate(*kinds: str) -> float:
        return mb["large"] / whole("large", *kinds)

    both = "ingest", "packed"
    first = "first ingest", "first packed"
    with_start = whole("small", *first, *both)
    alone = reference["rate" + unit]
    found = {
        "tokenizers alone, MB/s": alone,
        "start-up of ingest and shard, s": whole("large", *first),
        "ingest, MB/s": rate("ingest"),
        "shard packed, MB/s": rate("packed"),
        "shard pairs, MB/s": rate("pairs"),
        "shard packed / tokenizers": rate("packed") / alone,
        "shard pairs / tokenizers": rate("pairs") / alone,
        "ingest and shard packed / tokenizers": rate(*both) / alone,
        "time of the larger / the smaller": whole("large", *both) / whole("small", *both),
    }
    if loaded:
        seconds = {name: each["seconds" + unit] for name, each in loaded.items()}
        theirs = mb["small"] / (seconds["small"] - seconds["tiny"])
        found |= {
            "datasets, MB/s": theirs,
            "start-up of datasets, s": seconds["tiny"],
            "ingest and shard packed / datasets": rate(*both) / theirs,
            "the smaller with start-up, datasets, s": seconds["small"],
            "the smaller with start-up, ingest and shard, s": with_start,
            "the smaller with start-up, datasets / ours": seconds["small"] / with_start,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="a text, .txt or .txt.xz, a blank line between documents")
    parser.add_argument("--vocab", type=Path, help="a vocab.txt or tokenizer.json")
    parser.add_argument("--copies", type=int, default=5, help="how often the larger corpus holds the smaller")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--turn", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        print(json.dumps(CONTESTANTS[options.turn](str(options.corpus), options.folder)))
        return
    if options.vocab is None:
        parser.error("--vocab is missing: a vocab.txt or tokenizer.json")
    sys.path.insert(0, str(ROOT))
    has_datasets = subprocess.run([sys.executable, "-c", "import datasets"], capture_output=True).returncode == 0
    if not has_datasets:
        print("Hugging Face datasets is not installed: its lines are left out (pip install datasets).")
    turns: list[dict[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = prepare(options.corpus.resolve(), options.vocab.resolve(), Path(folder), copies=options.copies)
        sizes = ", ".join(f"{name} {paths[name].stat().st_size / 1e6:.1f} MB" for name in ("small", "large"))
        print(f"{sizes}; {CORES} cores; other work on this machine is in the times, so look at ratios", flush=True)
        for number in range(options.rounds):
            turns.append(turn(paths, has_datasets=has_datasets))
            print(f"turn {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
    print("| median (quartiles) | by the clock | in processor time |\n| --- | --- | --- |")
    for name in turns[0]:
        columns = [quartiles([each[name][at] for each in turns]) for at in (0, 1)]
        print(f"| {name} | {' | '.join(columns)} |")


def quartiles(values: list[float]) -> str:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return f"{median:.2f} ({low:.2f} - {high:.2f})" if median == median else ""


if __name__ == "__main__":
    main()
