"""One generation of the configuration as octets for the program's maps, and the room that it takes there."""

from collections.abc import Mapping
from typing import Final, NamedTuple, Self

_MIN_SERVERS: Final = 256
_MIN_BACKENDS: Final = 64


class Room(NamedTuple):
    """How many elements one half of each map has: of server IDs, backends, and slots of the ring."""

    servers: int
    backends: int
    ring: int

    @classmethod
    def for_table(cls, head: Mapping[str, int | bytes]) -> Self:
        """Room for a table, and for one of twice its size."""
        servers, backends, ring = (int(head[name]) for name in ("server_slots", "backend_slots", "ring_slots"))
        return cls(max(2 * servers, _MIN_SERVERS), max(2 * backends, _MIN_BACKENDS), max(ring, 1))

    def holds(self, head: Mapping[str, int | bytes]) -> bool:
        """Whether a table fits."""
        wanted = (int(head[name]) for name in ("server_slots", "backend_slots", "ring_slots"))
        return all(there >= want for there, want in zip(self, wanted, strict=True))

    @property
    def elements(self) -> dict[str, int]:
        """Elements of the maps."""
        return {
            "servers": 2 * self.servers,
            "destinations": 2 * self.backends,
            "ring": 2 * self.ring,
        }


class Contents(NamedTuple):
    """What one generation puts into the maps. head: of the table, by field."""

    table: bytes
    head: dict[str, int | bytes]
    destinations: bytes
    flow_entries: int
    flow_timeout_ticks: int
