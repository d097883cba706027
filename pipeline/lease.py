"""One runner at a time on an output folder: a small file with a heartbeat."""

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from upath import UPath

from cluster.storage import is_local, write_json

BEAT_SECONDS = 5.0
# A holder counts as dead if for so long, by the watcher's own clock, its beat stands still.
STALE_SECONDS = 30.0
# On a store without exclusive creation: of two claims within this time the later one holds.
_SETTLE_SECONDS = 1.0


class LeaseHeldError(Exception):
    """Another runner is using this output folder."""


class LeaseLostError(Exception):
    """Another runner took over this output folder."""


class Lease:
    """`with Lease(output):` holds `{output}/lease.json`. Raises LeaseHeldError if another runner holds it."""

    def __init__(self, output: UPath, *, wait: bool = False) -> None:
        self._path = output / "lease.json"
        self._wait = wait
        self._id = uuid.uuid4().hex
        self._started = time.time()
        self._stop = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat_on, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        told = False
        while not self._claim():
            held = f"{_describe(self._read())} is using {self._path.parent}"
            if not self._wait:
                raise LeaseHeldError(f"{held}; wait for it with --wait, or use another output")
            if not told:
                print(f"Waiting: {held}.", flush=True)
                told = True
            time.sleep(BEAT_SECONDS)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Frees the output; a second call does nothing."""
        self._stop.set()
        self._thread.join(timeout=BEAT_SECONDS)
        if not self._lost and self._is_mine(self._read()):
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises LeaseLostError if this runner counted as dead and was replaced."""
        if self._lost:
            raise LeaseLostError(
                f"{_describe(self._read())} took over {self._path.parent}: "
                f"this runner gave no sign of life for {STALE_SECONDS:.0f} s"
            )

    def _claim(self) -> bool:
        holder = self._read()
        if holder and not self._is_dead(holder):
            return False
        if is_local(self._path):
            return self._claim_local(holder)
        write_json(self._path, self._record())
        time.sleep(_SETTLE_SECONDS)
        return self._is_mine(self._read())

    def _claim_local(self, dead: dict[str, Any] | None) -> bool:
        """Creates the file by a hard link, as only one runner can; first renames a dead holder's file away."""
        path = Path(str(self._path))
        if dead is not None:
            grave = path.with_name(f".lease-{dead.get('id', 'broken')}")
            try:
                path.rename(grave)
            except FileNotFoundError:
                return False  # another runner was faster: look again
            buried = _parse(grave)
            if buried is not None and buried.get("id") != dead.get("id"):
                os.replace(grave, path)  # it belongs to a living runner: put it back
                return False
            grave.unlink(missing_ok=True)
        mine = path.with_name(f".lease-{self._id}")
        mine.write_text(json.dumps(self._record()))
        try:
            os.link(mine, path)
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        return True

    def _beat_on(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                holder = self._read()
                if holder is not None and not self._is_mine(holder):
                    self._lost = True
                    return
                write_json(self._path, self._record())
            except OSError:
                continue  # a full disk or a lost connection: the next beat may succeed

    def _record(self) -> dict[str, Any]:
        return {"id": self._id, **_here(), "started": self._started, "beat": time.time()}

    def _read(self) -> dict[str, Any] | None:
        return _parse(self._path)

    def _is_mine(self, holder: dict[str, Any] | None) -> bool:
        return holder is not None and holder.get("id") == self._id

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        here = _here()
        if all(holder.get(key) == here[key] for key in ("host", "boot")) and not _is_running(holder):
            return True
        # Clocks of two machines may differ by hours: what its beat says is not compared with any.
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 5)
            if self._read() != holder:
                return False
        return True


def _parse(path: UPath | Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"id": "broken"}  # dead once it stands still: it has no beat


def _here() -> dict[str, Any]:
    """This process; `boot` tells machines, restarts and containers with the same host name apart."""
    pid = os.getpid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = ""
    return {"host": socket.gethostname(), "boot": boot, "pid": pid, "birth": _birth(pid)}


def _birth(pid: int) -> str:
    """When the process began, so that a later one with the same id is not taken for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_running(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return bool(_birth(pid) == holder.get("birth"))


def _describe(holder: dict[str, Any] | None) -> str:
    if not holder or "pid" not in holder:
        return "Another runner"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder.get("started", 0.0))))
    return f"Another runner (process {holder['pid']} on {holder.get('host')}, since {since})"
