"""One runner at a time on an output folder: a small file with a heartbeat.

On this machine's file systems it is `lease.json`, which only one runner can create. In a store it is the highest of
`lease-000001.json`, `lease-000002.json`, …: who follows a runner that ended or died creates the next one, which of
several only one can (S3 and Google Cloud create an object only if there is none; of what cannot, the later write
holds), and each runner writes to its own alone.
"""

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
# In a store that creates no object exclusively: of two claims within this time the later one holds.
_SETTLE_SECONDS = 1.0


class LeaseHeldError(Exception):
    """Another runner is using this output folder."""


class LeaseLostError(Exception):
    """Another runner took over this output folder."""


class Lease:
    """`with Lease(output):` holds the output's lease. Raises LeaseHeldError if another runner holds it."""

    def __init__(self, output: UPath, *, wait: bool = False) -> None:
        self._folder = output
        self._path = output / "lease.json"
        self._wait = wait
        self._id = uuid.uuid4().hex
        self._started = time.time()
        self._stop = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat_on, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._folder.mkdir(parents=True, exist_ok=True)
        told = False
        while not self._claim():
            held = f"{_describe(self._read())} is using {self._folder}"
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
            if is_local(self._path):
                self._path.unlink(missing_ok=True)
            else:
                write_json(self._path, self._record() | {"released": True})  # numbers never begin again

    def check(self) -> None:
        """Raises LeaseLostError if this runner counted as dead and was replaced."""
        if self._lost:
            raise LeaseLostError(
                f"{_describe(self._read())} took over {self._folder}: "
                f"this runner gave no sign of life for {STALE_SECONDS:.0f} s"
            )

    def _claim(self) -> bool:
        holder = self._read()
        if holder and not holder.get("released") and not self._is_dead(holder):
            return False
        return self._claim_local(holder) if is_local(self._path) else self._claim_next(holder)

    def _claim_next(self, before: dict[str, Any] | None) -> bool:
        """Creates the object after that of a runner that ended or died."""
        number = before["number"] + 1 if before else 1
        path = self._folder / f"lease-{number:06d}.json"
        try:
            path.fs.pipe_file(path.path, json.dumps(self._record()).encode(), mode="create")
        except FileExistsError:
            return False
        time.sleep(_SETTLE_SECONDS)
        if not self._is_mine(self._read()):
            return False  # others came before and after, or at once
        self._path = path
        for earlier in self._numbered()[:-1]:
            earlier.unlink(missing_ok=True)
        return True

    def _numbered(self) -> list[UPath]:
        """The objects of all runners that were not removed yet, the newest last."""
        self._folder.fs.invalidate_cache()  # what others wrote is not in this process's listing
        return sorted(self._folder.glob("lease-??????.json"), key=lambda path: path.name)

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
        """What the newest runner wrote last; in a store with the number of its object."""
        if is_local(self._path):
            return _parse(self._path)
        for path in reversed(self._numbered()):
            if (holder := _parse(path)) is not None:  # None: it was removed meanwhile, so there is a newer one
                return holder | {"number": int(path.stem.removeprefix("lease-"))}
        return None

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
        # In one request: between two of them the holder may write.
        value = json.loads(path.read_bytes() if isinstance(path, Path) else path.fs.cat_file(path.path))
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
    if not holder or not isinstance(holder.get("started"), int | float):
        return "Another runner"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["started"]))
    return f"Another runner (process {holder.get('pid')} on {holder.get('host')}, since {since})"
