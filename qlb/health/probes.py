"""The probes of this release, by the names that ``health.probe`` takes.

A new probe is one module and one row here. Its module is imported only if it is chosen.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from qlb.errors import ConfigError
from qlb.health.probe import Probe, ProbeResult, Target


class ProbeRow(NamedTuple):
    """Where a probe is: a module and the name of the coroutine function in it. extra: what pip must install for it."""

    module: str
    function: str
    extra: str = ""


PROBES: Final[Mapping[str, ProbeRow]] = MappingProxyType(
    {
        "quic": ProbeRow("qlb.health.version_negotiation", "probe_version_negotiation"),
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
