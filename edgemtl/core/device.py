"""Device: where a measurement was made, and under which conditions. What is not known is None."""

from __future__ import annotations

import msgspec


class Clock(msgspec.Struct, frozen=True):
    """A clock as it runs and the limits that are set now; it is pinned where these are equal."""

    current_mhz: float | None
    min_mhz: float | None
    max_mhz: float | None


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """A moment: clocks, temperatures, what throttles now, and how often something throttled since the start
    of the system."""

    clocks: dict[str, Clock]
    temperatures_c: dict[str, float]
    throttling: tuple[str, ...]
    throttle_events: dict[str, int]


class Rail(msgspec.Struct, frozen=True):
    """The power that one monitor saw. ``source`` is the driver that told."""

    mean_w: float
    max_w: float
    samples: int
    source: str


class Power(msgspec.Struct, frozen=True):
    """Power while all ways were measured in turns. ``total_w`` is the mean of the rail ``total``, which feeds
    the whole board; None where no rail is known to."""

    total_w: float | None
    total: str | None
    rails: dict[str, Rail]


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a machine; with those of a measurement on it, once there was one.

    ``governor`` is that of CPU 0; ``l4t``, ``jetpack`` and ``nvpmodel`` are those of a Jetson. ``warnings``
    say what speaks against the figures, for example that the board was throttling.
    """

    machine: str | None
    cpu: str | None
    cores: int
    memory_mib: float | None
    os: str | None
    kernel: str
    python: str
    gpu: str | None
    board: str | None
    governor: str | None
    l4t: str | None
    jetpack: str | None
    nvpmodel: str | None
    runtime: str | None = None
    before: Conditions | None = None
    after: Conditions | None = None
    power: Power | None = None
    warnings: tuple[str, ...] = ()
