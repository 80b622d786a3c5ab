"""Backends: the servers that packets go to, and the stable small integers that stand for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from qlb.errors import QlbError

MAX_BACKENDS: Final = 65536
"""Backend names that one daemon can meet in its life; each has its own counters."""


class Endpoint(NamedTuple):
    """An address as the socket calls take it. host: an IPv4 or IPv6 literal. port: 0 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write it the way the configuration does: ``127.0.0.1:4433``, ``[::1]:4433``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BackendState(StrEnum):
    """What the operator wants of a backend."""

    ACTIVE = "active"
    DRAINING = "draining"
    """It keeps the connections that it has and gets no new ones."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One server.

    server_ids: config ID → the server IDs (octets) that are its own under that config.
    weight: its share of new connections, 0 to 65535; 0 = none. healthy: the probe's last verdict.
    """

    name: str
    endpoint: Endpoint
    server_ids: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    weight: int = 1
    state: BackendState = BackendState.ACTIVE
    healthy: bool = True

    @property
    def accepts_new(self) -> bool:
        """Whether a connection that belongs to nobody yet may go here: active, healthy, weight above 0.

        Packets whose ID decodes to this backend go here whatever this says: only it has their keys.
        """
        return self.healthy and self.state is BackendState.ACTIVE and self.weight > 0


class BackendIndexes:
    """Backend name → index, the same for the life of a daemon: counters and flow entries rely on it."""

    __slots__ = ("_by_name",)

    def __init__(self) -> None:
        """Start with no names."""
        self._by_name: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that was ever given an index, in the order of the indexes."""
        return tuple(self._by_name)

    def arrange(self, backends: Iterable[Backend]) -> tuple[Backend | None, ...]:
        """Return the backends by index; None where a name is no longer among them.

        Raises QlbError when the daemon has met more than MAX_BACKENDS names.
        """
        present = {self._index(backend.name): backend for backend in backends}
        return tuple(present.get(index) for index in range(len(self._by_name)))

    def _index(self, name: str) -> int:
        if name not in self._by_name and len(self._by_name) >= MAX_BACKENDS:
            raise QlbError(f"more than {MAX_BACKENDS} backend names since the start: restart the daemon")
        return self._by_name.setdefault(name, len(self._by_name))
