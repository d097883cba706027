"""Runners that claim an output at once."""

import threading

from upath import UPath

from pipeline.lease import Lease, LeaseHeldError


def claim_together(output: UPath, *, count: int) -> list[Lease]:
    """The leases of those, of `count` that begin together, who hold the output."""
    won: list[Lease] = []
    together = threading.Barrier(count)

    def claim() -> None:
        together.wait()
        lease = Lease(output)
        try:
            lease.__enter__()
        except LeaseHeldError:
            return
        won.append(lease)

    threads = [threading.Thread(target=claim) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won
