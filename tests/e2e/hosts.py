"""Two hosts on one machine: network namespaces with addresses of their own, a link between them, a Ray node in each."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Documentation's own network (RFC 5737): nobody's address.
ADDRESSES = ("192.0.2.1", "192.0.2.2")
LINK = "veth0"  # its name on both hosts
# A host that does not answer is given up after 6 s, not 65.
_HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "2",
}


class Hosts:
    """A head and a second host that joins it, and joins it again whenever it was lost."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._folders: list[Path] = []
        self._names = tuple(f"electra{os.getpid()}{end}" for end in "ab")
        self._environment = os.environ | _HEALTH | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_API_SERVER_ADDRESS": f"http://{ADDRESSES[0]}:8265",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        self._environment.pop("RAY_ADDRESS", None)

    def build(self) -> None:
        """Makes the namespaces and the link. Raises CalledProcessError where this user may not."""
        first, second = self._names
        for name, address in zip(self._names, ADDRESSES, strict=True):
            _ip("netns", "add", name)
            # What resolves the host's name for gloo: else it advertises loopback.
            hosts = Path("/etc/netns", name, "hosts")
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"127.0.0.1 localhost\n{address} {os.uname().nodename}\n")
        _ip("-n", first, "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", second)
        for name, address in zip(self._names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", LINK)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", LINK, "up")

    def start(self) -> None:
        """Starts a Ray node on each; the second is started anew when it ends, as systemd or Kubernetes would."""
        head, second = ADDRESSES
        self._spawn(0, f"ray start --head --dashboard-host {head} --node-ip-address {head} {self._options()}")
        join = f"ray start --address {head}:6379 --node-ip-address {second} {self._options()}"
        self._spawn(1, f"until {join}; do sleep 1; done")

    def cut(self) -> None:
        """Takes the link away."""
        _ip("-n", self._names[1], "link", "set", LINK, "down")

    def mend(self) -> None:
        """Gives the link back."""
        _ip("-n", self._names[1], "link", "set", LINK, "up")

    def command(self, number: int, command: list[str]) -> tuple[list[str], dict[str, str]]:
        """The command line and environment that run `command` on a host."""
        return ["ip", "netns", "exec", self._names[number], *command], self._environment

    def is_ready(self) -> bool:
        """Whether the head takes jobs."""
        ask = f"import socket; socket.create_connection(({ADDRESSES[0]!r}, 8265), timeout=1)"
        command, environment = self.command(0, [sys.executable, "-c", ask])
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    def processes(self, number: int) -> list[int]:
        """The process ids of a host."""
        found = subprocess.run(["ip", "netns", "pids", self._names[number]], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def destroy(self) -> None:
        """Ends every process of both hosts, and takes the namespaces away."""
        for number, name in enumerate(self._names):
            until = time.monotonic() + 20
            while (left := self.processes(number)) and time.monotonic() < until:
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            folder = Path("/etc/netns", name)
            (folder / "hosts").unlink(missing_ok=True)
            if folder.exists():
                folder.rmdir()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _options(self) -> str:
        # A folder each, as on two machines. Short: Ray's sockets lie below it, and their paths may have 107 characters.
        self._folders.append(Path(tempfile.mkdtemp(prefix="ray", dir="/tmp")))
        return f"--block --num-cpus 1 --object-store-memory 100000000 --temp-dir {self._folders[-1]}"

    def _spawn(self, number: int, script: str) -> None:
        command, environment = self.command(number, ["sh", "-c", script])
        log = (self._logs / f"host{number}.log").open("ab")
        subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts(logs: Path) -> Iterator[Hosts]:
    """Both hosts, their Ray nodes started; what they say is in `logs`."""
    hosts = Hosts(logs)
    try:
        hosts.build()
        hosts.start()
        until = time.monotonic() + 60
        while not hosts.is_ready():
            assert time.monotonic() < until, (logs / "host0.log").read_text()[-4000:]
            time.sleep(0.2)
        yield hosts
    finally:
        hosts.destroy()
