"""How much memory `ingest` takes of files without any line break: `python tests/benchmarks/bounded.py`.

Prints the peak of a process that ingests a short text, a text of one line of `--gigabytes`, and a gzip of some MB whose
one line is 1 GB. None may take 600 MB more than the first.
"""

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_INGEST = """
import sys
from pathlib import Path
from upath import UPath
from stages.context import StageContext
from stages.ingest import IngestConfig, run
run(IngestConfig(sources=(sys.argv[1],), heldout_fraction=0), StageContext(output=UPath(sys.argv[2])))
(peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(int(peak) // 1024)
"""
_LIMIT_MB = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=int, default=4)
    options = parser.parse_args()
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "short.txt").write_text("A short text.\n\nAnd another one.\n")
        block = b"".join(b"word%07d " % number for number in range((64 << 20) // 12))
        with (folder / "line.txt").open("wb") as file:
            for _ in range(options.gigabytes * 16):
                file.write(block)
        with gzip.open(folder / "line.txt.gz", "wb") as file:
            for _ in range(16):
                file.write(b"x" * (64 << 20))
        for source in ("short.txt", "line.txt", "line.txt.gz"):
            began = time.monotonic()
            command = [sys.executable, "-c", _INGEST, str(folder / source), str(folder / f"out-{source}")]
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
            found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            peaks[source] = int(found.stdout)
            size = (folder / source).stat().st_size / 2**20
            print(f"{source:<12} {size:>8.1f} MB on disk, peak {peaks[source]:>5} MB, {time.monotonic() - began:.0f} s")
    return int(max(peaks.values()) - peaks["short.txt"] > _LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
