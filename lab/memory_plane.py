"""The plane without sockets: bytes in, decisions out. Tests compare the other planes with it.

It is the oracle of the others: for the same datagrams at the same times they must decide the same.
"""

from qlb.addresses import FourTuple
from qlb.dataplane.base import Orders
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.flows import FlowTables
from qlb.routing.router import Decision, Router, begins_flow, unconfigured_id, unknown_id


class MemoryPlane:
    """A plane without sockets: the caller passes each datagram and its time."""

    def __init__(self, orders: Orders) -> None:
        """Begin with empty tables and counters at zero."""
        settings = orders.settings
        self.counters = Counters(bytearray(SIZE_BYTES))
        self.router = Router(orders.snapshot, FlowTables(settings.flow_table_size, settings.flow_timeout_s))

    def handle(self, datagram: bytes, four_tuple: FourTuple, now_s: float) -> Decision:
        """Decide and count one datagram; every decision to forward counts as forwarded."""
        self.counters.count_received(1, len(datagram))
        outcome, index = self.router.decide(datagram, four_tuple, now_s)
        now_ms = int(now_s * 1000)
        if (config_id := unconfigured_id(outcome, datagram)) >= 0:
            self.counters.count_unconfigured(config_id, now_ms)
        if (config_id := unknown_id(outcome, datagram)) >= 0:
            self.counters.count_unknown(config_id, now_ms)
        self.counters.count(outcome, index, now_ms, len(datagram))
        if begins_flow(outcome, datagram):
            self.counters.count_new_flow(index)
        if index < 0:
            self.counters.record_sample(outcome, datagram, now_ms)
        return outcome, index

    def apply(self, orders: Orders) -> None:
        """Swap the snapshot and the tables' bounds."""
        self.router.snapshot = orders.snapshot
        self.router.flows.resize(orders.settings.flow_table_size, orders.settings.flow_timeout_s)
