"""The ways to ask a backend whether it is alive, by the names that ``health.probe`` takes.

A new probe is one module and one row here; its module is imported only when it is chosen.
"""

import importlib
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from qlb.errors import ConfigError
from qlb.health.target import Target


class ProbeResult(NamedTuple):
    """What one probe found.

    detail: one sentence for people. final: nothing that happens can change this, so do not ask again.
    doubtful: it may be chance (a packet can be lost), so it counts only in a row with others.
    reached: the backend has answered, or its host has: whatever is wrong is not this node's network.
    finding: the backend answers and is set up wrongly; what was expected and what was seen. It decides at once.
    refused: its host has answered that nothing listens there (ECONNREFUSED).
    silent: nothing came back, which proves little of servers that never answer this kind of probe.
    error: the name of this node's own error that ended the probe. void: no result; the verdict stays as it is.
    """

    ok: bool
    detail: str
    final: bool = False
    doubtful: bool = False
    reached: bool = False
    finding: str = ""
    refused: bool = False
    silent: bool = False
    error: str = ""
    void: bool = False


Probe = Callable[[Target, float], Awaitable[ProbeResult]]
"""Ask a backend once: (target, timeout_s) → result. It ends within timeout_s and leaves nothing open."""


class ProbeRow(NamedTuple):
    """Where a probe is: a module and the name of the coroutine function in it. extra: what pip must install for it."""

    module: str
    function: str
    extra: str = ""


PROBES: Final[Mapping[str, ProbeRow]] = MappingProxyType(
    {
        "quic": ProbeRow("qlb.health.negotiation", "probe_version_negotiation"),
        "handshake": ProbeRow("qlb.health.handshake", "probe_handshake", "aioquic"),
        "none": ProbeRow("qlb.health.probes", "assume_healthy"),
    }
)
"""The probes of this release."""


def find_probe(name: str) -> Probe:
    """Import a probe.

    Raises ConfigError where this release has no probe of that name, saying what there is instead, and where what the
    probe is made with is not installed.
    """
    row = PROBES.get(name)
    if row is None:
        known = ", ".join(PROBES)
        raise ConfigError(f"health.probe: this release has no probe {name}; there is: {known}")
    try:
        module = importlib.import_module(row.module)
    except ImportError as error:
        raise ConfigError(
            f"health.probe: {name} needs the {row.extra} extra: pip install 'qlb[{row.extra}]' ({error})"
        ) from error
    return cast(Probe, getattr(module, row.function))


async def assume_healthy(target: Target, timeout_s: float) -> ProbeResult:  # noqa: ARG001 (a Probe)
    """Send nothing, and take every backend for healthy."""
    return ProbeResult(ok=True, detail="not probed: health.probe is none", final=True)
