"""Backends, and the small integers that identify them for as long as their names exist."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from qlb.addresses import Endpoint
from qlb.errors import QlbError

MAX_BACKENDS: Final = 65536
"""Backends that one daemon can have at once, including recently removed ones; each has its own counters."""


class BackendState(StrEnum):
    """The state that the operator has set for a backend."""

    ACTIVE = "active"
    DRAINING = "draining"
    """The backend continues to serve its connections and receives no new ones."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One server that packets are forwarded to.

    server_ids: config ID → the server's IDs (octets) under that CID config.
    weight: its share of new connections, 0 to 65535; 0 = none. healthy: the last verdict of the health check.
    other_hosts: further IP addresses of this server. qlb sends no packets to them, but derives server IDs from them
    where server IDs are derived from addresses.
    """

    name: str
    endpoint: Endpoint
    server_ids: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    weight: int = 1
    state: BackendState = BackendState.ACTIVE
    healthy: bool = True
    other_hosts: tuple[str, ...] = ()

    @property
    def accepts_new(self) -> bool:
        """True if this backend may receive new connections: it is active and healthy, and its weight is above 0.

        Packets with an ID that decodes to this backend are forwarded to it in any case: only it has their keys.
        """
        return self.healthy and self.state is BackendState.ACTIVE and self.weight > 0


class BackendIndexes:
    """Backend name → index. Counters, flow entries and sessions identify a backend by its index.

    An index is in one of three states:

    - named: it belongs to a name, even if no backend has that name now;
    - resting: its name was forgotten, but a worker's flow entries may still contain the index;
    - free: no flow entry can contain it any more, so the next new name gets it.

    arrange() makes an index named, forget() makes it resting, release() makes it free.
    """

    __slots__ = ("_by_name", "_free", "_names")

    def __init__(self) -> None:
        """Start without names."""
        self._by_name: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []

    def copy(self) -> "BackendIndexes":
        """Return an independent copy."""
        other = BackendIndexes()
        other._by_name, other._names, other._free = dict(self._by_name), list(self._names), list(self._free)
        return other

    @property
    def names(self) -> tuple[str, ...]:
        """The names by index; the empty string if an index has no name."""
        return tuple(self._names)

    @property
    def room(self) -> int:
        """The number of new names that can get an index now."""
        return MAX_BACKENDS - len(self._names) + len(self._free)

    def find(self, name: str) -> int | None:
        """Return the index of a name, or None if it has none."""
        return self._by_name.get(name)

    def arrange(self, backends: Iterable[Backend]) -> tuple[Backend | None, ...]:
        """Return the backends by index, with None at an index without a backend. New names get an index.

        Raises QlbError if there are more new names than free indexes.
        """
        present = {self._index(backend.name): backend for backend in backends}
        return tuple(present.get(index) for index in range(len(self._names)))

    def forget(self, name: str) -> int:
        """Remove a name and return its index, which is resting from now on. Raises KeyError if it has none."""
        index = self._by_name.pop(name)
        self._names[index] = ""
        return index

    def release(self, index: int) -> None:
        """Free a resting index for the next new name."""
        self._free.append(index)

    def _index(self, name: str) -> int:
        if name in self._by_name:
            return self._by_name[name]
        if not self.room:
            raise QlbError(f"more than {MAX_BACKENDS} backend names at once: restart the daemon to release old names")
        if self._free:
            index = self._free.pop()
            self._names[index] = name
        else:
            index = len(self._names)
            self._names.append(name)
        self._by_name[name] = index
        return index
