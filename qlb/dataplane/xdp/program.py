"""The loaded XDP program with its maps: constants before loading, snapshots and questions after it.

The size of a map is fixed when the program is loaded. Most maps have two halves: packets read one half while Python
writes the other. write() makes the new half current in one step (maps.h).
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

from qlb.addresses import Endpoint
from qlb.dataplane.core.table import CONFIG, CONFIGS, HEAD, SERVER
from qlb.dataplane.xdp.bpf_object import BpfMap, BpfObject
from qlb.dataplane.xdp.counters import SAMPLES, Clock
from qlb.dataplane.xdp.layout import (
    GENERATION,
    GUE_PORT,
    HOP_NS,
    MEMO_PAGES,
    MODES,
    QUESTION,
    SERVICE,
    SETTINGS,
    Contents,
    Room,
    pack_services,
    service_ports,
)
from qlb.dataplane.xdp.libbpf import run_packet
from qlb.errors import PlaneUnavailable
from qlb.routing.outcomes import OUTCOMES

PROGRAM: Final = Path(__file__).with_name("program.o")
FORWARD: Final = "qlb_forward"
EXPLAIN: Final = "qlb_explain"

_ANY_FRAME: Final = bytes(64)
_LOOPBACK: Final = 0
"""The interface of a test run that any machine has, even if those of the configuration do not exist any more."""
_FIRST: Final = struct.pack("=I", 0)
_RING_SLOT_BYTES: Final = 4
_UNASKED: Final = len(OUTCOMES)
_FLOW_MAPS: Final = ("by_source_id", "by_destination_id", "by_four_tuple")
_SHARED: Final = ("totals", "samples", "memos", "allowances", "exits")
"""Maps that a newly loaded program takes over from the old one. It also takes over flow maps of the same size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XdpSettings:
    """Settings that need a restart.

    services: addresses of the service. interfaces: on which its packets arrive. mode: one of MODES.
    attach: auto, native or generic. keep: leave the program attached at the end; the next process takes it over.
    """

    services: tuple[Endpoint, ...]
    interfaces: tuple[str, ...]
    mode: str
    attach: str = "auto"
    keep: bool = False


class Explained(NamedTuple):
    """The program's answer about one packet.

    decision: the outcome that the core decides. outcome: the final one. Both are None if the packet is not for a
    service. backend: its index, or -1. action: such as XDP_PASS. packet: as it leaves. interface: index of the one by
    which it leaves; 0 if it does not.
    """

    decision: int | None
    outcome: int | None
    backend: int
    action: int
    packet: bytes
    interface: int


class Program:
    """The loaded program. room: elements of its maps. flow_entries: of each flow map."""

    def __init__(self, loaded: BpfObject, room: Room, flow_entries: int) -> None:
        """Use load() instead."""
        self.room = room
        self.flow_entries = flow_entries
        self._object = loaded
        self._half = 1
        self._generation: BpfMap | None = None

    @classmethod
    def load(
        cls,
        settings: XdpSettings,
        contents: Contents,
        tick_ns: int,
        *,
        redirect_only: bool,
        old: Program | None,
    ) -> Self:
        """Load the program with maps that have room for these contents and more. Raises PlaneUnavailable.

        redirect_only: never use XDP_TX. old: the program to take maps over from.
        """
        room, flow_entries = Room.for_table(contents.head), contents.flow_entries
        services, seed = pack_services(settings.services)
        service_slots = len(services) // SERVICE.size_bytes
        loaded = BpfObject(PROGRAM.read_bytes())
        try:
            counters = {"backends": room.backends, "samples": SAMPLES, "memos": MEMO_PAGES}
            others = {"configs": 2 * CONFIGS, "services": service_slots}
            loaded.resize({**room.elements, **counters, **others, **dict.fromkeys(_FLOW_MAPS, max(flow_entries, 1))})
            if old is not None:
                kept = _SHARED if flow_entries != old.flow_entries else _SHARED + _FLOW_MAPS
                loaded.share({name: old.map(name) for name in kept})
            constants = SETTINGS.pack(
                mode=MODES.index(settings.mode),
                gue_port=GUE_PORT,
                service_slots=service_slots,
                hop_ticks=max(HOP_NS // tick_ns, 1),
                service_seed=seed,
                service_ports=service_ports(settings.services),
                redirect_only=redirect_only,
            )
            loaded.set_constants(".rodata.settings", constants)
            loaded.load()
            loaded.map("services").write(0, services)
        except OSError as error:
            loaded.close()
            raise PlaneUnavailable(f"the XDP program cannot be loaded: {error.strerror}") from error
        return cls(loaded, room, flow_entries)

    def fits(self, contents: Contents) -> bool:
        """Return whether the maps have room for these contents, and flow maps of the wanted size."""
        return self.room.holds(contents.head) and self.flow_entries == contents.flow_entries

    def write(self, contents: Contents, number: int) -> None:
        """Write contents into the unread half and make it current. number: of the contents, never used again.

        Raises OSError.
        """
        half, room, head = 1 - self._half, self.room, contents.head
        first = {
            "configs_at": half * CONFIGS,
            "servers_at": half * room.servers,
            "backends_at": half * room.backends,
            "ring_at": half * room.ring,
        }
        for name, part, size_bytes in (
            ("configs", "configs_at", CONFIGS * CONFIG.size_bytes),
            ("servers", "servers_at", int(head["server_slots"]) * SERVER.size_bytes),
            ("ring", "ring_at", int(head["ring_slots"]) * _RING_SLOT_BYTES),
        ):
            start = int(head[part])
            self.map(name).write(first[part], contents.table[start : start + size_bytes])
        self.map("destinations").write(first["backends_at"], contents.destinations)
        packed = GENERATION.pack(
            head=HEAD.pack(**{**head, **first}), flow_timeout_ticks=contents.flow_timeout_ticks, number=number
        )
        generation, before = BpfMap.create_array("generation", GENERATION.size_bytes, 1), self._generation
        generation.set(_FIRST, packed)
        self._generation, self._half = generation, half
        self.make_current()
        if before is not None:
            before.close()

    def make_current(self) -> None:
        """Make the written half current. Returns when no running program reads another. Raises OSError."""
        assert self._generation is not None, "write() has set it"
        self.map("current").set(_FIRST, struct.pack("=I", self._generation.fd))

    def map(self, name: str) -> BpfMap:
        """Return one of its maps."""
        return self._object.map(name)

    def descriptor(self, name: str) -> int:
        """Return the descriptor of FORWARD or EXPLAIN."""
        return self._object.program(name)

    def explain(self, packet: bytes, interface: int, *, remember: bool, now: int) -> Explained:
        """Ask the program about a packet that arrives on an interface. See XdpPlane.explain(). Raises OSError."""
        action, leaving, answer = self._ask(packet, interface, remember=remember, now=now)
        decision, outcome = (answer[name] if answer[name] != _UNASKED else None for name in ("decision", "outcome"))
        return Explained(decision, outcome, answer["backend"], action, leaving, answer["interface"])

    def clock(self, tick_ns: int) -> Clock:
        """Return the relation between the program's clock and this process's. Raises OSError."""
        _, _, answer = self._ask(_ANY_FRAME, _LOOPBACK)
        return Clock(tick_ns, answer["now"], time.monotonic_ns())

    def _ask(
        self, packet: bytes, interface: int, *, remember: bool = False, now: int = 0
    ) -> tuple[int, bytes, dict[str, int]]:
        questions = self.map("questions")
        question = QUESTION.pack(
            now=now, remember=remember, decision=_UNASKED, outcome=_UNASKED, backend=-1, interface=0
        )
        questions.set(_FIRST, question)
        action, leaving, _ = run_packet(self.descriptor(EXPLAIN), packet, interface=interface)
        answer = QUESTION.unpack(questions.get(_FIRST) or question)
        return action, leaving, {name: int(value) for name, value in answer.items()}

    def close(self) -> None:
        """Close all descriptors; an attached program stays attached."""
        self._object.close()
        if self._generation is not None:
            self._generation.close()
            self._generation = None
