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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from qlb.addresses import Endpoint
from qlb.dataplane.base import Orders
from qlb.dataplane.core.table import CONFIG, CONFIGS, HEAD, SERVER, compile_table
from qlb.dataplane.xdp.counters import SAMPLES, Clock, KernelCounters, tick_ns
from qlb.dataplane.xdp.destinations import check_forwarding, hosts_of, pack_destinations
from qlb.dataplane.xdp.interfaces import Interfaces, Watched
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
from qlb.dataplane.xdp.libbpf import BpfMap, BpfObject, run_packet
from qlb.errors import PlaneUnavailable
from qlb.routing.counters import Counters
from qlb.routing.outcomes import OUTCOMES
from qlb.routing.snapshot import Snapshot

PROGRAM: Final = Path(__file__).with_name("program.o")
FORWARD: Final = "qlb_forward"
EXPLAIN: Final = "qlb_explain"

_ANY_FRAME: Final = bytes(64)
_LOOPBACK: Final = 0
"""For a test run: an interface that is always there, also when those of the configuration are gone."""
_FIRST: Final = struct.pack("=I", 0)
_NS: Final = 1_000_000_000
_RING_SLOT_BYTES: Final = 4
_UNASKED: Final = len(OUTCOMES)
_FLOW_MAPS: Final = ("by_source_id", "by_destination_id", "by_four_tuple")
_SHARED: Final = ("totals", "samples", "memos", "allowances", "exits")
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
        self._interfaces = Interfaces(settings.interfaces, settings.attach, keep=settings.keep)
        self._counters = KernelCounters()
        self._lock = threading.Lock()
        self._tick_ns = tick_ns()
        self._flow_entries = orders.settings.flow_table_size
        self._number = 0
        self._half = 0
        self._backends = 0
        self._destinations = b""
        self._started = False
        self._object: BpfObject | None = None
        self._generation: BpfMap | None = None
        self._room = Room(0, 0, 0)
        self._orders = orders
        self._check_forwarding(orders.snapshot)
        self.apply(orders)
        self._interfaces.fill(self._exits)

    def start(self) -> None:
        """Begin to forward. Raises PlaneUnavailable."""
        with self._lock:
            try:
                self._interfaces.put(self.program(FORWARD), self._exits, hosts_of(self._orders.snapshot))
            except OSError as error:
                raise PlaneUnavailable(f"the XDP program's interfaces cannot be set up: {error}") from error
            self._started = True

    def apply(self, orders: Orders) -> None:
        """Forward by new orders from now on; no packet goes by half of them.

        Raises PlaneUnavailable or OSError where the kernel refuses: then what was in force stays so.
        """
        contents = self._contents(orders)
        with self._lock:
            fits = self._object is not None and self._room.holds(contents.head)
            if fits and contents.flow_entries == self._flow_entries:
                self._write(contents)
            else:
                self._move(contents)
            self._backends = max(self._backends, len(orders.snapshot.backends))
            self._orders, self._destinations = orders, contents.destinations

    def watch(self) -> Watched:
        """Look at the interfaces, attach again what was detached, and follow addresses, routes and devices.

        Raises PlaneUnavailable or OSError where the kernel refuses.
        """
        with self._lock:
            found = self._interfaces.watch(self.program(FORWARD), self._exits, hosts_of(self._orders.snapshot))
            has_moved = found.changed and pack_destinations(self._orders.snapshot) != self._destinations
            if has_moved or found.has_new_exits:  # a new generation makes CPUs forget the next hops that they know
                contents = self._contents(self._orders)
                self._write(contents)
                self._destinations = contents.destinations
            return found

    def _contents(self, orders: Orders) -> Contents:
        table, settings = compile_table(orders.snapshot), orders.settings
        return Contents(
            table,
            HEAD.unpack(table),
            pack_destinations(orders.snapshot),
            settings.flow_table_size,
            max(int(settings.flow_timeout_s * _NS) // self._tick_ns, 1) if settings.flow_table_size else 0,
        )

    def stop(self) -> None:
        """Detach, unless the program is to be kept, and let go of everything."""
        with self._lock:
            self._interfaces.close()
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
        return self._interfaces.indexes

    @property
    def _exits(self) -> BpfMap:
        assert self._object is not None, "it is loaded"
        return self._object.map("exits")

    @property
    def prefers_generic(self) -> bool:
        """Whether start() has chosen, for `attach: auto`, to attach after the driver to reach all backends."""
        return self._interfaces.prefers_generic

    def program(self, name: str) -> int:
        """Return the descriptor of a loaded program: FORWARD or EXPLAIN."""
        assert self._object is not None, "it runs"
        return self._object.program(name)

    def explain(self, packet: bytes, *, remember: bool = False, now: int = 0) -> Explained:
        """Ask the program what it would do with a packet, from its Ethernet header on; nothing is counted.

        remember: let the flow tables learn from it all the same. now: another time than now, in ticks. Raises OSError.
        """
        with self._lock:
            interface = next(iter(self.interfaces), 0)
            action, leaving, answer = self._ask(packet, interface, remember=remember, now=now)
        decision, outcome = (answer[name] if answer[name] != _UNASKED else None for name in ("decision", "outcome"))
        return Explained(decision, outcome, answer["backend"], action, leaving, answer["interface"])

    def _ask(
        self, packet: bytes, interface: int, *, remember: bool = False, now: int = 0
    ) -> tuple[int, bytes, dict[str, int]]:
        assert self._object is not None, "it runs"
        questions = self._object.map("questions")
        question = QUESTION.pack(
            now=now, remember=remember, decision=_UNASKED, outcome=_UNASKED, backend=-1, interface=0
        )
        questions.set(_FIRST, question)
        action, leaving, _ = run_packet(self.program(EXPLAIN), packet, interface=interface)
        answer = QUESTION.unpack(questions.get(_FIRST) or question)
        return action, leaving, {name: int(value) for name, value in answer.items()}

    def _clock(self) -> Clock:
        """Return what the program's clock shows in this process's time: any packet makes it tell."""
        _, _, answer = self._ask(_ANY_FRAME, _LOOPBACK)
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
                self._interfaces.replace(self.program(FORWARD))
        except (OSError, PlaneUnavailable):
            self._object, self._room, self._half, self._flow_entries = before
            if self._started:
                with suppress(PlaneUnavailable):
                    self._interfaces.replace(self.program(FORWARD))  # where the new one is already
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
                service_ports=service_ports(self._settings.services),
                redirect_only=self._interfaces.redirects_only,
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

    def _check_forwarding(self, snapshot: Snapshot) -> None:
        families = frozenset(ipaddress.ip_address(host).version for host in hosts_of(snapshot).values())
        for interface in self._settings.interfaces:
            check_forwarding(interface, families)
