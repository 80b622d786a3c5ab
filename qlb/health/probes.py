"""The table of probes, by the names that ``health.probe`` accepts, and the default.

To add a probe, write a module and add one row here. The module is imported only if the configuration selects it. The
table is apart from probe.py because the modules of the probes import that one.

The default, ``auto``, is ``handshake`` where aioquic is installed, and ``quic`` elsewhere. It decides by the same
signs of life as ``quic``: a server that answers an unknown version is alive, whatever its handshake does. The handshake
adds the check of the connection IDs, and signs of life of servers that send no Version Negotiation.
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


DEFAULT: Final = "auto"
_NEEDED: Final = "aioquic"


def chosen(name: str) -> str:
    """Return the name of the probe that a name of ``health.probe`` stands for. Imports nothing."""
    if name != DEFAULT:
        return name
    return "handshake" if find_spec(_NEEDED) is not None else "quic"


def require_probe(name: str) -> None:
    """Check that a probe can be imported, without importing it: that takes longer than a configuration's check.

    Raises ConfigError as find_probe() does. The default never fails.
    """
    if name == DEFAULT:
        return
    row = _row(name)
    for module in filter(None, (row.extra, row.module)):
        if find_spec(module) is None:
            raise _lacks(name, row, f"No module named {module!r}")


_PROOFS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "quic": "that a backend answers, not that its connection IDs lead back to it",
        "handshake": "that a backend answers, and that its connection IDs lead back to it from any port",
        "none": "nothing",
    }
)


def describe(name: str) -> str:
    """Return a sentence about what a probe proves. name: a name that ``health.probe`` accepts."""
    probe = chosen(name)
    text = f"health.probe {name} proves {_PROOFS[probe]}"
    if name != DEFAULT:
        return text
    if probe == "handshake":
        return f"{text} (aioquic is installed, so it includes handshakes)"
    return f"{text} (with `pip install 'qlb[aioquic]'` it would prove that, too)"


def find_probe(name: str) -> Probe:
    """Import a probe.

    Raises ConfigError if this release has no probe of that name (the text lists the known ones), or if a library that
    the probe needs is not installed.
    """
    if name == DEFAULT:
        return _default()
    row = _row(name)
    try:
        module = importlib.import_module(row.module)
    except ImportError as error:
        raise _lacks(name, row, str(error)) from error
    return cast(Probe, getattr(module, row.function))


def _row(name: str) -> ProbeRow:
    row = PROBES.get(name)
    if row is None:
        known = ", ".join((DEFAULT, *PROBES))
        raise ConfigError(f"health.probe: this release has no probe {name}; known probes: {known}")
    return row


def _lacks(name: str, row: ProbeRow, reason: str) -> ConfigError:
    others = " or ".join(other for other, its in PROBES.items() if not its.extra)
    remedy = f"pip install 'qlb[{row.extra}]' ({reason}), or choose {others}"
    return ConfigError(f"health.probe: {name} needs the {row.extra} extra: {remedy}")


def _default() -> Probe:
    """Return the default probe; the probe ``quic`` if aioquic is missing or cannot be imported."""
    quic = find_probe("quic")
    if chosen(DEFAULT) == "quic":
        return quic
    import asyncio  # not with the module: `qlb check` imports it, and runs no event loop

    try:
        handshake = find_probe("handshake")
    except ConfigError:
        return quic

    async def both(target: Target, timeout_s: float) -> ProbeResult:
        alive, ids = await asyncio.gather(quic(target, timeout_s), handshake(target, timeout_s), return_exceptions=True)
        if isinstance(ids, BaseException):
            raise ids
        if isinstance(alive, BaseException):
            raise alive
        return merge(alive, ids)

    return both


def merge(alive: ProbeResult, ids: ProbeResult) -> ProbeResult:
    """Return the result of the default probe. alive: of ``quic``. ids: of ``handshake``.

    A wrong ID always counts. Otherwise the better of both results does, so that the default is never stricter than
    ``quic``: a slow handshake, or one that the server refuses, is no sign of a dead server.
    """
    if ids.finding or ids.ok:
        return ids
    if alive.ok:
        return alive._replace(detail=f"{alive.detail}; {ids.detail}", own_ids=ids.own_ids)
    return alive


async def assume_healthy(target: Target, timeout_s: float) -> ProbeResult:  # noqa: ARG001 (the signature of a Probe)
    """Send nothing and report the backend as healthy."""
    return ProbeResult(ok=True, detail="not probed: health.probe is none", final=True)
