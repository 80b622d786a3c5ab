"""The XDP plane's Python side: loads the program, fills its maps from each snapshot, attaches it, reads its counters.

There is no worker: once attached, the kernel forwards, whether or not this process lives. A snapshot is written into
the half of each map that no packet reads, then made the current one in one step (maps.h). Where the maps have become
too small, the program is loaded once more with larger ones and takes the first one's place between two packets.
"""

from __future__ import annotations

import ipaddress
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from qlb.dataplane.base import Orders
from qlb.dataplane.table import CONFIG, CONFIGS, HEAD, SERVER, backend_flags, compile_table
from qlb.dataplane.xdp.attach import Attachment, holds_back
from qlb.dataplane.xdp.clock import Clock, tick_ns
from qlb.dataplane.xdp.counters import SAMPLES, KernelCounters
from qlb.dataplane.xdp.layout import (
    GENERATION,
    GUE_PORT,
    HOP_NS,
    MEMO_PAGES,
    MODES,
    NO_DESTINATION,
    QUESTION,
    SERVICE,
    SETTINGS,
    pack_destination,
    pack_services,
)
from qlb.dataplane.xdp.libbpf import BpfMap, BpfObject, run_packet
from qlb.dataplane.xdp.routes import check_forwarding, source_towards
from qlb.errors import PlaneUnavailable
from qlb.routing.backends import Endpoint
from qlb.routing.counters import Counters
from qlb.routing.outcomes import OUTCOMES
from qlb.routing.snapshot import Snapshot

PROGRAM: Final = Path(__file__).with_name("program.o")
FORWARD: Final = "qlb_forward"
EXPLAIN: Final = "qlb_explain"

_ANY_FRAME: Final = bytes(64)
_FIRST: Final = struct.pack("=I", 0)
_NS: Final = 1_000_000_000
_RING_SLOT_BYTES: Final = 4
_UNASKED: Final = len(OUTCOMES)
_MIN_SERVERS: Final = 256
_MIN_BACKENDS: Final = 64
_FLOW_MAPS: Final = ("by_source_id", "by_destination_id", "by_four_tuple")
_SHARED: Final = ("totals", "samples", "memos", "allowances")
"""Maps that outlive the program which they were made for, when another one takes its place; flow maps, too, of the
same size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XdpSettings:
    """What only a restart changes.

    services: addresses that packets for the service have. interfaces: where they come in. mode: one of MODES.
    attach: auto, native or generic. keep: leave the program attached at the end; the next one takes it over.
    """

    services: tuple[Endpoint, ...]
    interfaces: tuple[str, ...]
    mode: str
    attach: str = "auto"
    keep: bool = False


class Room(NamedTuple):
    """How many elements one half of each map has: of server IDs, backends, and slots of the ring."""

    servers: int
    backends: int
    ring: int

    @classmethod
    def for_table(cls, head: Mapping[str, int | bytes]) -> Room:
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


class Explained(NamedTuple):
    """What the program would do with a packet.

    decision, outcome: what the core decides, and what becomes of it; None where it is for no service. backend: its
    index, or -1. action: XDP_PASS and the like. packet: as it would leave, by the interface of this index (0: it
    would not).
    """

    decision: int | None
    outcome: int | None
    backend: int
    action: int
    packet: bytes
    interface: int


class XdpPlane:
    """The program in the kernel, on all its interfaces. Its methods may be called from any thread."""

    def __init__(self, settings: XdpSettings, orders: Orders) -> None:
        """Load it; nothing is forwarded before start(). Raises PlaneUnavailable, naming what is missing."""
        self._settings = settings
        self._attachments = [Attachment(name, settings.attach, keep=settings.keep) for name in settings.interfaces]
        self._counters = KernelCounters()
        self._lock = threading.Lock()
        self._tick_ns = tick_ns()
        self._flow_entries = orders.settings.flow_table_size
        self._number = 0
        self._half = 0
        self._backends = 0
        self._started = False
        self._object: BpfObject | None = None
        self._generation: BpfMap | None = None
        self._room = Room(0, 0, 0)
        self._check_forwarding(orders.snapshot)
        self.apply(orders)

    def start(self) -> None:
        """Begin to forward. Raises PlaneUnavailable."""
        with self._lock:
            self._put()
            self._started = True

    def apply(self, orders: Orders) -> None:
        """Forward by new orders from now on; no packet goes by half of them.

        Raises PlaneUnavailable or OSError where the kernel refuses: then what was in force stays so.
        """
        table, settings = compile_table(orders.snapshot), orders.settings
        contents = Contents(
            table,
            HEAD.unpack(table),
            _pack_destinations(orders.snapshot),
            settings.flow_table_size,
            max(int(settings.flow_timeout_s * _NS) // self._tick_ns, 1) if settings.flow_table_size else 0,
        )
        with self._lock:
            fits = self._object is not None and self._room.holds(contents.head)
            if fits and contents.flow_entries == self._flow_entries:
                self._write(contents)
            else:
                self._move(contents)
            self._backends = max(self._backends, len(orders.snapshot.backends))

    def stop(self) -> None:
        """Detach, unless the program is to be kept, and let go of everything."""
        with self._lock:
            for attachment in self._attachments:
                attachment.close()
            if self._object is not None:
                self._object.close()
                self._object = None
            if self._generation is not None:
                self._generation.close()
                self._generation = None

    def read_counters(self) -> Counters:
        """Return the sums of all CPUs as they are now; the same object each time. Raises OSError."""
        with self._lock:
            if self._object is not None:
                totals, backends, samples = map(self._object.map, ("totals", "backends", "samples"))
                self._counters.read(totals, backends, samples, self._backends, self._clock())
            return self._counters.sums

    @property
    def interfaces(self) -> tuple[int, ...]:
        """Indexes of the interfaces that it is for."""
        return tuple(attachment.index for attachment in self._attachments)

    def program(self, name: str) -> int:
        """Return the descriptor of a loaded program: FORWARD or EXPLAIN."""
        assert self._object is not None, "it runs"
        return self._object.program(name)

    def explain(self, packet: bytes, *, remember: bool = False, now: int = 0) -> Explained:
        """Ask the program what it would do with a packet, from its Ethernet header on; nothing is counted.

        remember: let the flow tables learn from it all the same. now: another time than now, in ticks. Raises OSError.
        """
        with self._lock:
            action, leaving, answer = self._ask(packet, remember=remember, now=now)
        decision, outcome = (answer[name] if answer[name] != _UNASKED else None for name in ("decision", "outcome"))
        return Explained(decision, outcome, answer["backend"], action, leaving, answer["interface"])

    def _ask(self, packet: bytes, *, remember: bool = False, now: int = 0) -> tuple[int, bytes, dict[str, int]]:
        assert self._object is not None, "it runs"
        questions = self._object.map("questions")
        question = QUESTION.pack(
            now=now, remember=remember, decision=_UNASKED, outcome=_UNASKED, backend=-1, interface=0
        )
        questions.set(_FIRST, question)
        action, leaving, _ = run_packet(self.program(EXPLAIN), packet, interface=next(iter(self.interfaces), 0))
        answer = QUESTION.unpack(questions.get(_FIRST) or question)
        return action, leaving, {name: int(value) for name, value in answer.items()}

    def _clock(self) -> Clock:
        """Return what the program's clock shows in this process's time: any packet makes it tell."""
        _, _, answer = self._ask(_ANY_FRAME)
        return Clock(self._tick_ns, answer["now"], time.monotonic_ns())

    def _move(self, contents: Contents) -> None:
        """Load the program with maps of other sizes, and let it take the place of the one before."""
        before = self._object, self._room, self._half, self._flow_entries
        room = Room.for_table(contents.head)
        loaded = self._load(room, contents.flow_entries)
        self._object, self._room, self._half, self._flow_entries = loaded, room, 1, contents.flow_entries
        try:
            self._write(contents)
            if self._started:
                self._put()
        except (OSError, PlaneUnavailable):
            self._object, self._room, self._half, self._flow_entries = before
            if self._started:
                with suppress(PlaneUnavailable):
                    self._put()  # where the new one is already
            loaded.close()
            raise
        if before[0] is not None:
            self._wait()
            backends = before[0].map("backends")
            self._counters.retire(backends, min(self._backends, backends.max_entries))
            before[0].close()

    def _load(self, room: Room, flow_entries: int) -> BpfObject:
        services, seed = pack_services(self._settings.services)
        service_slots = len(services) // SERVICE.size_bytes
        loaded = BpfObject(PROGRAM.read_bytes())
        try:
            flows = max(flow_entries, 1)
            counters = {"backends": room.backends, "samples": SAMPLES, "memos": MEMO_PAGES}
            others = {"configs": 2 * CONFIGS, "services": service_slots}
            loaded.resize({**room.elements, **counters, **others, **dict.fromkeys(_FLOW_MAPS, flows)})
            if self._object is not None:
                kept = _SHARED if flow_entries != self._flow_entries else _SHARED + _FLOW_MAPS
                loaded.share({name: self._object.map(name) for name in kept})
            mode = MODES.index(self._settings.mode)
            settings = SETTINGS.pack(
                mode=mode,
                gue_port=GUE_PORT,
                service_slots=service_slots,
                hop_ticks=max(HOP_NS // self._tick_ns, 1),
                service_seed=seed,
                redirect_only=any(map(holds_back, self._settings.interfaces)),
            )
            loaded.set_constants(".rodata.settings", settings)
            loaded.load()
            loaded.map("services").write(0, services)
        except OSError as error:
            loaded.close()
            raise PlaneUnavailable(f"the XDP program cannot be loaded: {error.strerror}") from error
        return loaded

    def _write(self, contents: Contents) -> None:
        """Write a generation into the half that nobody reads, and make it the current one."""
        assert self._object is not None, "it is loaded"
        half, room, head = 1 - self._half, self._room, contents.head
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
            self._object.map(name).write(first[part], contents.table[start : start + size_bytes])
        self._object.map("destinations").write(first["backends_at"], contents.destinations)
        self._number += 1
        packed = GENERATION.pack(
            head=HEAD.pack(**{**head, **first}), flow_timeout_ticks=contents.flow_timeout_ticks, number=self._number
        )
        generation, before = BpfMap.create_array("generation", GENERATION.size_bytes, 1), self._generation
        generation.set(_FIRST, packed)
        self._generation, self._half = generation, half
        self._wait()
        if before is not None:
            before.close()

    def _wait(self) -> None:
        """Make the generation current; returns when no program runs any more that has seen another."""
        assert self._object is not None, "it is loaded"
        assert self._generation is not None, "it is written"
        self._object.map("current").set(_FIRST, struct.pack("=I", self._generation.fd))

    def _put(self) -> None:
        for attachment in self._attachments:
            attachment.put(self.program(FORWARD))

    def _check_forwarding(self, snapshot: Snapshot) -> None:
        hosts = [backend.endpoint.host for backend in snapshot.backends if backend is not None]
        families = frozenset(ipaddress.ip_address(host).version for host in hosts)
        for interface in self._settings.interfaces:
            check_forwarding(interface, families)


def _pack_destinations(snapshot: Snapshot) -> bytes:
    """Return the destinations of all backend indexes."""
    return b"".join(
        NO_DESTINATION
        if backend is None
        else pack_destination(backend_flags(backend), backend.endpoint.host, source_towards(backend.endpoint))
        for backend in snapshot.backends
    )
