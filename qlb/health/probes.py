"""The table of probes, by the names that ``health.probe`` accepts.

To add a probe, write a module and add one row here. The module is imported only if the configuration selects it. The
table is apart from probe.py because the modules of the probes import that one.
"""

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from qlb.errors import ConfigError
from qlb.health.probe import Probe, ProbeResult, Target


class ProbeRow(NamedTuple):
    """The place of a probe: a module and a coroutine function in it.

    extra: the extra that pip must install for it. It has the name of its library.
    """

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


def require_probe(name: str) -> None:
    """Check that a probe can be imported, without importing it: that takes longer than a configuration's check.

    Raises ConfigError as find_probe() does.
    """
    row = _row(name)
    for module in filter(None, (row.extra, row.module)):
        if find_spec(module) is None:
            raise _lacks(name, row, f"No module named {module!r}")


def find_probe(name: str) -> Probe:
    """Import a probe.

    Raises ConfigError if this release has no probe of that name (the text lists the known ones), or if a library that
    the probe needs is not installed.
    """
    row = _row(name)
    try:
        module = importlib.import_module(row.module)
    except ImportError as error:
        raise _lacks(name, row, str(error)) from error
    return cast(Probe, getattr(module, row.function))


def _row(name: str) -> ProbeRow:
    row = PROBES.get(name)
    if row is None:
        known = ", ".join(PROBES)
        raise ConfigError(f"health.probe: this release has no probe {name}; known probes: {known}")
    return row


def _lacks(name: str, row: ProbeRow, reason: str) -> ConfigError:
    others = " or ".join(other for other, its in PROBES.items() if not its.extra)
    remedy = f"pip install 'qlb[{row.extra}]' ({reason}), or choose {others}"
    return ConfigError(f"health.probe: {name} needs the {row.extra} extra: {remedy}")


async def assume_healthy(target: Target, timeout_s: float) -> ProbeResult:  # noqa: ARG001 (the signature of a Probe)
    """Send nothing and report the backend as healthy."""
    return ProbeResult(ok=True, detail="not probed: health.probe is none", final=True)
