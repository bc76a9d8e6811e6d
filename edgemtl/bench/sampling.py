"""Looking at the machine every so often, while something else is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

INTERVAL_S = 0.2  # a read over I2C takes a millisecond of one core: half a percent


@contextmanager
def sampling(look: Callable[[], object], interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Call ``look`` in a thread of its own until the block ends, once at least."""
    done = Event()

    def sample() -> None:
        look()
        while not done.wait(interval_s):
            look()

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
