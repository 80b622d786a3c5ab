"""The portable plane: datagram sockets on an event loop (uvloop if it is installed), all in Python.

The loop's reader callbacks read listeners with recvmsg(), because the loop's own datagram transports hide the control
messages with the traffic class, the hop limit and the destination address. This module decides about packets from
clients, and session_sockets.py sends them to backends. replies.py sends the packets from backends to clients.

The plane never blocks, never raises and never logs. It counts and drops a datagram that the system does not accept.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Final

from qlb.addresses import canonical_host
from qlb.dataplane import ancillary
from qlb.dataplane.ancillary import ControlMessage
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.dataplane.limits import affordable_sessions, port_budget, read_limits
from qlb.dataplane.portable.admission import Admission, SendGate, Service, Sources
from qlb.dataplane.portable.latency import LatencyMeter, ask_for_stamps
from qlb.dataplane.portable.replies import BATCH, MAX_DATAGRAM_BYTES, Replies
from qlb.dataplane.portable.session_sockets import SessionSockets
from qlb.dataplane.portable.sessions import Address, Session, SessionKey
from qlb.dataplane.sockets import bound_endpoint, take_single_datagrams
from qlb.routing import counters as layout
from qlb.routing.backends import Backend
from qlb.routing.counters import Counters
from qlb.routing.flows import FlowTables
from qlb.routing.outcomes import CONFIG_IDS, DROP_BAD_SOURCE, DROP_HOP_LIMIT, DROP_OVERLOAD
from qlb.routing.router import Router, begins_flow, unconfigured_id, unknown_id

_SWEEPS_PER_TIMEOUT: Final = 4
_MIN_SWEEP_S: Final = 0.25
_HEARTBEAT_S: Final = 0.5
"""The supervisor expects a heartbeat each second."""

Received = tuple[bytes, list[ControlMessage], Address]
"""(datagram, control messages, client)."""


class AsyncioPlane:
    """Proxy mode on the running event loop."""

    def __init__(self, listeners: Sequence[int], orders: Orders, counters_memory: memoryview) -> None:
        """Take over the listeners' descriptors; start() begins to read them."""
        settings = orders.settings
        self._loop = asyncio.get_running_loop()
        self._counters = Counters(counters_memory)
        self._router = Router(orders.snapshot, FlowTables(settings.flow_table_size, settings.flow_timeout_s))
        self._replies = Replies(self._counters, self._router, settings.dscp)
        self._sockets = SessionSockets(self._counters, self._replies, settings.dscp)
        self._sessions = self._sockets.sessions
        self._admission = Admission(time.monotonic())
        self._listeners = [
            _Listener(self, self._counters, socket.socket(fileno=descriptor)) for descriptor in listeners
        ]
        self._sources = Sources(
            Service(canonical_host(one.host.partition("%")[0]), one.port) for one in self._listeners
        )
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        self._started = False
        self._paused = False
        self._bound_sessions(settings)

    def start(self) -> None:
        """Start to forward."""
        self._started = True
        if not self._paused:
            self.resume()
        self._sweep()
        self._beat()

    def pause(self) -> None:
        """Stop reading the listeners."""
        self._paused = True
        for listener in self._listeners if self._started else ():
            self._loop.remove_reader(listener.sock)

    def resume(self) -> None:
        """Read the listeners again."""
        self._paused = False
        for listener in self._listeners if self._started else ():
            take_single_datagrams(listener.sock)
            ask_for_stamps(listener.sock)  # now, because the system does not stamp a datagram later
            self._loop.add_reader(listener.sock, listener.on_readable)

    def apply(self, orders: Orders) -> None:
        """Apply new orders. Sessions stay open, except for those whose backend has a new address."""
        settings, backends = orders.settings, orders.snapshot.backends
        self._router.snapshot = orders.snapshot
        self._router.flows.resize(settings.flow_table_size, settings.flow_timeout_s)
        self._replies.dscp = self._sockets.dscp = settings.dscp
        self._bound_sessions(settings)
        self._sessions.close_where(lambda session: _has_moved(session, backends))
        self._count_sessions()

    def stop(self) -> None:
        """Stop reading. Close all sessions, and this process's descriptors of the listeners."""
        for timer in (self._sweep_timer, self._heartbeat_timer):
            if timer is not None:
                timer.cancel()
        for listener in self._listeners:
            self._loop.remove_reader(listener.sock)
        self._sessions.close_all()
        self._count_sessions()
        self._replies.stop()
        for listener in self._listeners:
            listener.sock.close()

    def forward(self, listener: "_Listener", received: Sequence[Received], now_s: float) -> None:
        """Decide and send a batch of datagrams from clients.

        A full batch means that more packets wait in the listener's queue. Then packets of open sessions go first, and
        the number of new sessions is bounded.
        """
        waiting: list[tuple[int, SessionKey, Received]] = []
        is_behind = len(received) == BATCH
        for each in received:
            found = self._decide(listener, each, now_s)
            if found is None:
                continue
            outcome, key = found
            if is_behind and self._sessions.get(key) is None:
                waiting.append((outcome, key, each))
            else:
                self._pass_on(listener, outcome, key, each, now_s)
        if waiting:
            self._admission.refill(now_s)
        for outcome, key, each in waiting:
            if self._sessions.get(key) is not None or self._admission.admits(outcome):
                self._pass_on(listener, outcome, key, each, now_s)
            else:
                self._drop(DROP_OVERLOAD, each[0], now_s)
        self._count_sessions()

    def _decide(self, listener: "_Listener", received: Received, now_s: float) -> tuple[int, SessionKey] | None:
        """Return the outcome and the session's key; None if the packet was dropped."""
        datagram, control, client = received
        host, port = client[:2]
        service = (listener.wildcard and ancillary.read_destination(control)) or listener.host
        if self._sources.is_bad(host, port, service, now_s):
            self._drop(DROP_BAD_SOURCE, datagram, now_s)
            return None
        four_tuple = (host, port, service, listener.port)
        if listener.takes_both:
            four_tuple = (canonical_host(host), port, canonical_host(service), listener.port)
        outcome, index = self._router.decide(datagram, four_tuple, now_s)
        if (config_id := unconfigured_id(outcome, datagram)) >= 0:
            self._counters.count_unconfigured(config_id, int(now_s * 1000))
        unknown = unknown_id(outcome, datagram)
        if unknown >= 0:
            self._counters.count_unknown(unknown, int(now_s * 1000))
        if index < 0:
            self._drop(outcome, datagram, now_s)
            return None
        key = client, service, listener.gate, index
        if unknown >= 0 and (session := self._sessions.get(key)) is not None and session.shown is not None:
            self._counters.count_unknown_of(index)
        return outcome, key

    def _pass_on(self, listener: "_Listener", outcome: int, key: SessionKey, received: Received, now_s: float) -> None:
        """Send a datagram to its backend, through a new session if none is open."""
        datagram, control, _ = received
        session = self._sessions.get(key)
        failure = 0
        hop_limit = ancillary.read_hop_limit(control) - 1
        if session is not None:
            self._sessions.use(session, now_s)
            if hop_limit > session.hop_limit:
                self._sockets.raise_hop_limit(session, hop_limit)
        else:
            backend = self._router.snapshot.backends[key[3]]
            assert backend is not None, "the router returns existing backends"
            session = listener.describe_session(key, backend, hop_limit, now_s)
            failure = self._open(session, now_s)
        if outcome < CONFIG_IDS:
            session.is_routable = True
        failure = failure or self._sockets.send(session, datagram, ancillary.read_traffic_class(control), now_s)
        if failure:
            self._drop(failure, datagram, now_s)
        else:
            self._counters.count(outcome, key[3], int(now_s * 1000), len(datagram))
            if begins_flow(outcome, datagram):
                self._counters.count_new_flow(key[3])
            if listener.latency.began_ns:
                listener.latency.end()

    def _open(self, session: Session, now_s: float) -> int:
        """Open a session. Return 0, or the packet's outcome if it must not open one."""
        host, port = session.client[:2]
        if self._sessions.has_local(canonical_host(host), port):
            return DROP_BAD_SOURCE  # the packet came from this worker itself
        if session.hop_limit < 1:
            return DROP_HOP_LIMIT
        return self._sockets.open(session, now_s)

    def _drop(self, outcome: int, datagram: bytes, now_s: float) -> None:
        now_ms = int(now_s * 1000)
        self._counters.count(outcome, -1, now_ms)
        self._counters.record_sample(outcome, datagram, now_ms)

    def _bound_sessions(self, settings: PlaneSettings) -> None:
        """Apply the bounds of the settings and of the machine. Each session of this plane needs its own local port."""
        limit = affordable_sessions(settings.max_sessions)
        budget = port_budget(settings.workers, read_limits())
        self._sessions.timeout_s = settings.session_timeout_s
        self._sessions.routable_timeout_s = settings.routable_session_timeout_s
        self._sessions.resize(limit if budget is None else min(limit, budget), time.monotonic())

    def _sweep(self) -> None:
        self._sessions.close_idle(time.monotonic())
        self._count_sessions()
        delay_s = max(self._sessions.timeout_s / _SWEEPS_PER_TIMEOUT, _MIN_SWEEP_S)
        self._sweep_timer = self._loop.call_later(delay_s, self._sweep)

    def _beat(self) -> None:
        self._counters.slots[layout.HEARTBEAT_MS] = int(time.monotonic() * 1000)
        self._heartbeat_timer = self._loop.call_later(_HEARTBEAT_S, self._beat)

    def _count_sessions(self) -> None:
        self._counters.slots[layout.SESSIONS] = len(self._sessions)
        self._counters.slots[layout.SESSIONS_PROTECTED] = self._sessions.protected
        self._counters.slots[layout.SESSIONS_EVICTED] += self._sessions.evicted
        self._sessions.evicted = 0


class _Listener:
    """A service address: it receives packets from clients."""

    __slots__ = ("_counters", "_plane", "gate", "host", "latency", "port", "sock", "takes_both", "wildcard")

    def __init__(self, plane: AsyncioPlane, counters: Counters, sock: socket.socket) -> None:
        self._plane = plane
        self._counters = counters
        self.latency = LatencyMeter(counters, layout.TO_BACKEND)
        self.sock = sock
        self.gate = SendGate(sock)
        self.host, self.port = bound_endpoint(sock)
        self.wildcard = self.host in ("0.0.0.0", "::")
        # Only such a socket reports IPv4 clients with IPv6 addresses. open_listener() opens none.
        self.takes_both = sock.family == socket.AF_INET6 and not sock.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )

    def on_readable(self) -> None:
        """Read a batch of the queue and forward it."""
        receive, received = self.sock.recvmsg, []
        begins_sample = self.latency.is_due(self.sock)
        for _ in range(BATCH):
            try:
                datagram, control, _, client = receive(MAX_DATAGRAM_BYTES, ancillary.BUFFER_BYTES)
            except BlockingIOError:
                break
            except OSError:
                continue  # the error of an earlier reply; recvmsg() has cleared it
            self._counters.count_received(1, len(datagram))
            received.append((datagram, control, client))
            if begins_sample:
                self.latency.begin(self.sock)
                begins_sample = False
        self._plane.forward(self, received, time.monotonic())
        self.latency.cancel()

    def describe_session(self, key: SessionKey, backend: Backend, hop_limit: int, now_s: float) -> Session:
        """Return a session that has no socket yet."""
        session = Session(key, backend.endpoint, hop_limit, now_s)
        if self.wildcard:
            session.messages = (ancillary.source_message(key[1]),)
        if self.takes_both and canonical_host(key[0][0]) != key[0][0]:
            session.client_family = socket.AF_INET
        return session


def _has_moved(session: Session, backends: Sequence[Backend | None]) -> bool:
    """Return whether a session's backend has a new address. Sessions of a removed backend stay until they are idle."""
    backend = backends[session.index]
    return backend is not None and backend.endpoint != session.endpoint
