"""Backends: the servers that packets go to, and the stable small integers that stand for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from qlb.addresses import Endpoint
from qlb.errors import QlbError

MAX_BACKENDS: Final = 65536
"""Backends that one daemon can have at once, with those that left a short while ago; each has its own counters."""


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
    other_hosts: further IP addresses of this server. No packet is sent there; server IDs that are made of addresses are
    made of these, too.
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
        """Whether a connection that belongs to nobody yet may go here: active, healthy, weight above 0.

        Packets whose ID decodes to this backend go here whatever this says: only it has their keys.
        """
        return self.healthy and self.state is BackendState.ACTIVE and self.weight > 0


class BackendIndexes:
    """Backend name → index. Counters, flow entries and sessions all name a backend by its index.

    An index has one of three states:

    - named: it belongs to a name, whether or not a backend of that name is there now;
    - resting: its name was forgotten, but flow entries of some worker may still hold the index;
    - free: no flow entry can hold it any more, so the next new name gets it.

    arrange() makes an index named, forget() makes it resting, release() makes it free.
    """

    __slots__ = ("_by_name", "_free", "_names")

    def __init__(self) -> None:
        """Start with no names."""
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
        """The names by index; empty where an index has none."""
        return tuple(self._names)

    @property
    def room(self) -> int:
        """The number of new names that could get an index now."""
        return MAX_BACKENDS - len(self._names) + len(self._free)

    def find(self, name: str) -> int | None:
        """Return the index of a name, None where it never had one."""
        return self._by_name.get(name)

    def arrange(self, backends: Iterable[Backend]) -> tuple[Backend | None, ...]:
        """Return the backends by index; None where no backend is now.

        Raises QlbError where more names are new than there is room for.
        """
        present = {self._index(backend.name): backend for backend in backends}
        return tuple(present.get(index) for index in range(len(self._names)))

    def forget(self, name: str) -> int:
        """Take the name from its index, which rests from now on; return the index. The name has one."""
        index = self._by_name.pop(name)
        self._names[index] = ""
        return index

    def release(self, index: int) -> None:
        """Let the next new name have an index that rests."""
        self._free.append(index)

    def _index(self, name: str) -> int:
        if name in self._by_name:
            return self._by_name[name]
        if not self.room:
            raise QlbError(f"more than {MAX_BACKENDS} backend names at once: restart the daemon")
        if self._free:
            index = self._free.pop()
            self._names[index] = name
        else:
            index = len(self._names)
            self._names.append(name)
        self._by_name[name] = index
        return index
