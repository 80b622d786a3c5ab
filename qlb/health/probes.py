"""The ways to ask a backend whether it is alive, by the names that ``health.probe`` takes.

A new probe is one module and one row here; its module is imported only when it is chosen.
"""

import importlib
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from qlb.errors import ConfigError
from qlb.routing.backends import Endpoint


class ProbeResult(NamedTuple):
    """What one probe found.

    detail: one sentence for people. final: nothing that happens can change this, so do not ask again.
    doubtful: it may be chance (a packet can be lost), so it counts only in a row with others.
    """

    ok: bool
    detail: str
    final: bool = False
    doubtful: bool = False


Probe = Callable[[Endpoint, float], Awaitable[ProbeResult]]
"""Ask a backend once: (endpoint, timeout_s) → result. It ends within timeout_s and leaves nothing open."""


class ProbeRow(NamedTuple):
    """Where a probe is: a module and the name of the coroutine function in it."""

    module: str
    function: str


PROBES: Final[Mapping[str, ProbeRow]] = MappingProxyType(
    {
        "quic": ProbeRow("qlb.health.negotiation", "probe_version_negotiation"),
        "none": ProbeRow("qlb.health.probes", "assume_healthy"),
    }
)
"""The probes of this release."""


def find_probe(name: str) -> Probe:
    """Import a probe.

    Raises ConfigError, saying what there is instead, where this release has no probe of that name: the
    configuration may name probes of other releases, and only starting to probe finds out.
    """
    row = PROBES.get(name)
    if row is None:
        known = ", ".join(PROBES)
        raise ConfigError(f"health.probe: this release has no probe {name}; there is: {known}")
    return cast(Probe, getattr(importlib.import_module(row.module), row.function))


async def assume_healthy(endpoint: Endpoint, timeout_s: float) -> ProbeResult:  # noqa: ARG001 (a Probe)
    """Send nothing, and take every backend for healthy."""
    return ProbeResult(ok=True, detail="not probed: health.probe is none", final=True)
