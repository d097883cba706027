"""Two runners claim one output in a slow object store at once: `python tests/benchmarks/leases.py`.

Needs `moto[server]` and `s3fs`. Every request waits up to `--delay` seconds on its way to the server. Prints how often
exactly one of two won, when nobody held the output and when a dead runner whose clock is an hour ahead did.
"""

import argparse
import json
import logging
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from upath import UPath

from pipeline import lease as lease_module

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from claims import claim_together

os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


def slow_road(to: int, *, delay: float) -> int:
    """The port of a proxy that keeps each piece of a request for a random part of `delay` seconds."""
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, sink: socket.socket, seconds: float) -> None:
        try:
            while data := source.recv(1 << 16):
                time.sleep(random.uniform(0, seconds))
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", to))
            for pair in ((client, server, delay), (server, client, 0.0)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def main() -> int:
    from moto.server import ThreadedMotoServer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--delay", type=float, default=0.05)
    options = parser.parse_args()
    lease_module.BEAT_SECONDS, lease_module.STALE_SECONDS, lease_module._SETTLE_SECONDS = 0.2, 1.0, 0.05
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    port = slow_road(server.get_host_and_port()[1], delay=options.delay)
    bucket = UPath("s3://leases", endpoint_url=f"http://127.0.0.1:{port}")
    bucket.fs.mkdir("leases")
    dead = {"id": "x", "host": "elsewhere", "boot": "b", "pid": 5, "birth": "1", "started": 0.0}
    right = True
    for name in ("free", "held by the dead"):
        found: Counter[int] = Counter()
        for number in range(options.trials):
            output = bucket / f"{name.replace(' ', '-')}-{number}"
            if name != "free":
                (output / "lease-000004.json").write_text(json.dumps(dead | {"beat": time.time() + 3600}))
            won = claim_together(output, count=2)
            found[len(won)] += 1
            for lease in won:
                lease.release()
        print(f"{name}: {dict(found)} (how many won: in how many of {options.trials})", flush=True)
        right &= found == {1: options.trials}
    server.stop()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
