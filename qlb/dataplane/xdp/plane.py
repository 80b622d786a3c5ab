"""The XDP plane: loads the program, writes each snapshot into its maps, attaches it and reads its counters.

There is no worker: once attached, the program forwards in the kernel, even if this process ends. If a snapshot needs
larger maps, the plane loads the program again with larger ones and replaces the old program between two packets.
"""

from __future__ import annotations

import ipaddress
import threading
from contextlib import suppress
from typing import Final

from qlb.dataplane.base import Orders
from qlb.dataplane.core.table import HEAD, compile_table
from qlb.dataplane.xdp.bpf_object import BpfMap
from qlb.dataplane.xdp.counters import KernelCounters, tick_ns
from qlb.dataplane.xdp.destinations import check_forwarding, hosts_of, pack_destinations
from qlb.dataplane.xdp.interfaces import Interfaces, Watched
from qlb.dataplane.xdp.layout import Contents
from qlb.dataplane.xdp.program import FORWARD, Explained, Program, XdpSettings
from qlb.errors import PlaneUnavailable
from qlb.routing.counters import Counters
from qlb.routing.snapshot import Snapshot

_NS: Final = 1_000_000_000


class XdpPlane:
    """The program in the kernel, on all its interfaces. Its methods may be called from any thread."""

    def __init__(self, settings: XdpSettings, orders: Orders) -> None:
        """Load the program; it forwards after start(). Raises PlaneUnavailable with the cause."""
        self._settings = settings
        self._interfaces = Interfaces(settings.interfaces, settings.attach, keep=settings.keep)
        self._counters = KernelCounters()
        self._lock = threading.Lock()
        self._tick_ns = tick_ns()
        self._number = 0
        self._backends = 0
        self._destinations = b""
        self._started = False
        self._program: Program | None = None
        self._orders = orders
        self._check_forwarding(orders.snapshot)
        self.apply(orders)
        self._interfaces.fill(self._exits)

    def start(self) -> None:
        """Attach the program: it forwards from now on. Raises PlaneUnavailable."""
        with self._lock:
            try:
                self._interfaces.put(self.program(FORWARD), self._exits, hosts_of(self._orders.snapshot))
            except OSError as error:
                raise PlaneUnavailable(f"the XDP program's interfaces cannot be set up: {error}") from error
            self._started = True

    def apply(self, orders: Orders) -> None:
        """Apply new orders between two packets.

        Raises PlaneUnavailable or OSError if the kernel refuses them; the old orders then stay in force.
        """
        contents = self._contents(orders)
        with self._lock:
            if self._program is not None and self._program.fits(contents):
                self._write(self._program, contents)
            else:
                self._reload(contents)
            self._backends = max(self._backends, len(orders.snapshot.backends))
            self._orders, self._destinations = orders, contents.destinations

    def watch(self) -> Watched:
        """Check the interfaces, attach the program again if it was detached, and follow addresses and routes.

        Raises PlaneUnavailable or OSError if the kernel refuses.
        """
        with self._lock:
            found = self._interfaces.watch(self.program(FORWARD), self._exits, hosts_of(self._orders.snapshot))
            has_moved = found.changed and pack_destinations(self._orders.snapshot) != self._destinations
            if has_moved or found.has_new_exits:  # with new contents, the CPUs forget the next hops that they know
                contents = self._contents(self._orders)
                self._write(self._loaded, contents)
                self._destinations = contents.destinations
            return found

    def stop(self) -> None:
        """Detach the program, unless settings.keep is set, and release everything."""
        with self._lock:
            self._interfaces.close()
            if self._program is not None:
                self._program.close()
                self._program = None

    def read_counters(self) -> Counters:
        """Return the current sums of all CPUs; the same object each time. Raises OSError."""
        with self._lock:
            if self._program is not None:
                totals, backends, samples = map(self._program.map, ("totals", "backends", "samples"))
                self._counters.read(totals, backends, samples, self._backends, self._program.clock(self._tick_ns))
            return self._counters.sums

    @property
    def interfaces(self) -> tuple[int, ...]:
        """Indexes of its interfaces."""
        return self._interfaces.indexes

    @property
    def prefers_generic(self) -> bool:
        """True if start() chose generic mode for `attach: auto`, because only generic mode reaches all backends."""
        return self._interfaces.prefers_generic

    def program(self, name: str) -> int:
        """Return the descriptor of a loaded program: FORWARD or EXPLAIN."""
        return self._loaded.descriptor(name)

    def explain(self, packet: bytes, *, remember: bool = False, now: int = 0) -> Explained:
        """Ask the program about a packet, from its Ethernet header on. Counts nothing. Raises OSError.

        remember: store the flow in the flow tables. now: the time of the decision in ticks; 0 means the current time.
        """
        with self._lock:
            return self._loaded.explain(packet, next(iter(self.interfaces), 0), remember=remember, now=now)

    @property
    def _loaded(self) -> Program:
        assert self._program is not None, "it is loaded until stop()"
        return self._program

    @property
    def _exits(self) -> BpfMap:
        return self._loaded.map("exits")

    def _contents(self, orders: Orders) -> Contents:
        table, settings = compile_table(orders.snapshot), orders.settings
        return Contents(
            table,
            HEAD.unpack(table),
            pack_destinations(orders.snapshot),
            settings.flow_table_size,
            max(int(settings.flow_timeout_s * _NS) // self._tick_ns, 1) if settings.flow_table_size else 0,
        )

    def _write(self, program: Program, contents: Contents) -> None:
        self._number += 1
        program.write(contents, self._number)

    def _reload(self, contents: Contents) -> None:
        """Load the program with maps of other sizes, and replace the old one."""
        old = self._program
        new = Program.load(
            self._settings, contents, self._tick_ns, redirect_only=self._interfaces.redirects_only, old=old
        )
        self._program = new
        try:
            self._write(new, contents)
            if self._started:
                self._interfaces.replace(new.descriptor(FORWARD))
        except (OSError, PlaneUnavailable):
            self._program = old
            if self._started and old is not None:
                with suppress(PlaneUnavailable):
                    self._interfaces.replace(old.descriptor(FORWARD))  # some interfaces may have the new one
            new.close()
            raise
        if old is not None:
            new.make_current()  # returns when no CPU runs the old program any more
            backends = old.map("backends")
            self._counters.retire(backends, min(self._backends, backends.max_entries))
            old.close()

    def _check_forwarding(self, snapshot: Snapshot) -> None:
        families = frozenset(ipaddress.ip_address(host).version for host in hosts_of(snapshot).values())
        for interface in self._settings.interfaces:
            check_forwarding(interface, families)
