"""The portable plane: datagram sockets on an event loop (uvloop where it is installed), all Python.

A datagram is here twice: from a client on a listener, to be decided and sent on through its session, and
from a backend on a session, to go back to the client from the address that the client sent to. Sockets are
read with recvmsg() from the loop's reader callbacks, because the loop's own datagram transports hide the
control messages that carry ECN and the destination address.

It never blocks, never raises and never logs: what the system does not take is counted and gone, as in any
network.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Final

from qlb.dataplane import ancillary
from qlb.dataplane.ancillary import ControlMessage
from qlb.dataplane.base import Orders
from qlb.dataplane.limits import affordable_sessions
from qlb.dataplane.send_errors import send_error_kind
from qlb.dataplane.sessions import Address, Session, SessionKey, SessionTable
from qlb.dataplane.sockets import bound_endpoint, dropped_at, open_upstream, take_single_datagrams
from qlb.routing import counters as layout
from qlb.routing.backends import Backend
from qlb.routing.counters import Counters
from qlb.routing.flows import FlowTables
from qlb.routing.maglev import canonical_host
from qlb.routing.outcomes import DROP_NO_SESSION, DROP_SEND_FAILED
from qlb.routing.router import Router, unconfigured_id

MAX_DATAGRAM_BYTES: Final = 65_535
_BATCH: Final = 64
"""Datagrams read from one socket before the loop turns to the others."""
_SWEEPS_PER_TIMEOUT: Final = 4
_MIN_SWEEP_S: Final = 0.25
_HEARTBEAT_S: Final = 0.5
"""The supervisor expects one each second."""
_SENDS: Final = 2
"""Tries of one datagram: a refusal answers an earlier one (ICMP port unreachable), so this one goes again."""


class AsyncioPlane:
    """Proxy mode on the running event loop."""

    def __init__(self, listeners: Sequence[int], orders: Orders, counters_memory: memoryview) -> None:
        """Take over the listeners' descriptors; nothing is read before start()."""
        settings = orders.settings
        self._loop = asyncio.get_running_loop()
        self._counters = Counters(counters_memory)
        self._router = Router(orders.snapshot, FlowTables(settings.flow_table_size, settings.flow_timeout_s))
        self._sessions = SessionTable(affordable_sessions(settings.max_sessions), self._close_session)
        self._session_timeout_s = settings.session_timeout_s
        self._listeners = [_Listener(self, socket.socket(fileno=descriptor)) for descriptor in listeners]
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        self._started = False
        self._held = False

    def start(self) -> None:
        """Begin to forward."""
        self._started = True
        self.hold(self._held)
        self._sweep()
        self._beat()

    def hold(self, held: bool) -> None:
        """Leave the listeners unread, or read them again."""
        self._held = held
        for listener in self._listeners if self._started else ():
            if held:
                self._loop.remove_reader(listener.sock)
            else:
                take_single_datagrams(listener.sock)
                self._loop.add_reader(listener.sock, listener.on_readable)

    def apply(self, orders: Orders) -> None:
        """Swap the snapshot; sessions stay, but for those whose backend has another address now."""
        settings, backends = orders.settings, orders.snapshot.backends
        self._router.snapshot = orders.snapshot
        self._router.flows.resize(settings.flow_table_size, settings.flow_timeout_s)
        self._sessions.resize(affordable_sessions(settings.max_sessions))
        self._session_timeout_s = settings.session_timeout_s
        self._sessions.close_where(lambda session: _has_moved(session, backends))
        self._count_sessions()

    def stop(self) -> None:
        """Stop reading, close every session and the listeners' descriptors of this process."""
        for timer in (self._sweep_timer, self._heartbeat_timer):
            if timer is not None:
                timer.cancel()
        for listener in self._listeners:
            self._loop.remove_reader(listener.sock)
            listener.sock.close()
        self._sessions.close_all()
        self._count_sessions()

    def forward(self, listener: "_Listener", datagram: bytes, control: list[ControlMessage], client: Address) -> None:
        """Decide one datagram from a client and send it on."""
        now_s = time.monotonic()
        service = (listener.wildcard and ancillary.read_destination(control)) or listener.host
        four_tuple = (client[0], client[1], service, listener.port)
        if listener.takes_both:
            four_tuple = (canonical_host(client[0]), client[1], canonical_host(service), listener.port)
        self._counters.count_received(1, len(datagram))
        outcome, index = self._router.decide(datagram, four_tuple, now_s)
        now_ms = int(now_s * 1000)
        if (config_id := unconfigured_id(outcome, datagram)) >= 0:
            self._counters.count_unconfigured(config_id, now_ms)
        if index >= 0:
            key = (client, service, listener.sock, index)
            session = self._sessions.get(key)
            if session is not None:
                session.renewed = True
            else:
                session = self._open_session(key, listener.wildcard)
            failure = DROP_NO_SESSION if session is None else self._send(session, datagram, control, now_s)
            if failure:
                outcome, index = failure, -1
        self._counters.count(outcome, index, now_ms)
        if index < 0:
            self._counters.keep_sample(outcome, datagram, now_ms)

    def _open_session(self, key: SessionKey, wildcard: bool) -> Session | None:
        backend = self._router.snapshot.backends[key[3]]
        assert backend is not None, "the router names backends that are there"
        sock = self._open_upstream(backend)
        if sock is None:
            return None
        session = Session(key, sock, backend.endpoint, (ancillary.source_message(key[1]),) if wildcard else ())
        self._sessions.add(session)
        self._loop.add_reader(sock, self._on_reply, session)
        self._count_sessions()
        return session

    def _open_upstream(self, backend: Backend) -> socket.socket | None:
        try:
            return open_upstream(backend.endpoint)
        except OSError:
            # No descriptor, port or memory left: one session less, and one more try.
            if not self._sessions.evict():
                return None
        try:
            return open_upstream(backend.endpoint)
        except OSError:
            return None

    def _on_reply(self, session: Session) -> None:
        session.last_used_s = time.monotonic()
        session.renewed = True
        receive = session.sock.recvmsg
        for _ in range(_BATCH):
            try:
                datagram, control, _, _ = receive(MAX_DATAGRAM_BYTES, ancillary.BUFFER_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # the error of an earlier send (ICMP port unreachable); reading it has cleared it
            self._reply(session, datagram, ancillary.read_ecn(control))

    def _send(self, session: Session, datagram: bytes, control: list[ControlMessage], now_s: float) -> int:
        """Send towards the backend. Returns 0, or the outcome that the packet has instead of its own."""
        session.last_used_s = now_s
        ecn = ancillary.read_ecn(control)
        for _ in range(_SENDS):
            try:
                if ecn != session.ecn:
                    ancillary.set_ecn(session.sock, ecn)
                    session.ecn = ecn
                session.sock.send(datagram)
            except OSError as error:
                self._counters.count_send_error(send_error_kind(error), session.index, len(datagram))
                if not isinstance(error, ConnectionRefusedError):
                    break
            else:
                return 0
        return DROP_SEND_FAILED

    def _reply(self, session: Session, datagram: bytes, ecn: int) -> None:
        """Send back to the client, and count it."""
        control = session.reply
        if ecn:
            control = (*control, ancillary.ecn_message(session.listener.family, ecn))
        try:
            session.listener.sendmsg((datagram,), control, 0, session.client)
        except OSError as error:
            self._counters.count_send_error(send_error_kind(error))
            self._counters.slots[layout.RETURN_DROPPED] += 1
        else:
            self._counters.count_returned(session.index)

    def _sweep(self) -> None:
        self._sessions.close_idle(time.monotonic() - self._session_timeout_s)
        self._count_sessions()
        delay_s = max(self._session_timeout_s / _SWEEPS_PER_TIMEOUT, _MIN_SWEEP_S)
        self._sweep_timer = self._loop.call_later(delay_s, self._sweep)

    def _beat(self) -> None:
        self._counters.slots[layout.HEARTBEAT_MS] = int(time.monotonic() * 1000)
        self._heartbeat_timer = self._loop.call_later(_HEARTBEAT_S, self._beat)

    def _close_session(self, session: Session) -> None:
        self._loop.remove_reader(session.sock)
        # Asked for once, here: what a session has dropped is not worth a system call for each reply.
        self._counters.slots[layout.RETURN_OVERFLOWED] += dropped_at(session.sock) or 0
        session.sock.close()

    def _count_sessions(self) -> None:
        self._counters.slots[layout.SESSIONS] = len(self._sessions)
        self._counters.slots[layout.SESSIONS_EVICTED] += self._sessions.evicted
        self._sessions.evicted = 0


class _Listener:
    """A service address: reads what clients send to it."""

    __slots__ = ("_plane", "host", "port", "sock", "takes_both", "wildcard")

    def __init__(self, plane: AsyncioPlane, sock: socket.socket) -> None:
        self._plane = plane
        self.sock = sock
        self.host, self.port = bound_endpoint(sock)
        self.wildcard = self.host in ("0.0.0.0", "::")
        # Only such a socket has IPv4 clients with IPv6 names; open_listener() makes none, and others pay nothing.
        self.takes_both = sock.family == socket.AF_INET6 and not sock.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )

    def on_readable(self) -> None:
        """Read what is there, a bounded number at a time, and forward it."""
        receive, forward = self.sock.recvmsg, self._plane.forward
        for _ in range(_BATCH):
            try:
                datagram, control, _, client = receive(MAX_DATAGRAM_BYTES, ancillary.BUFFER_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # the error of an earlier reply; reading it has cleared it
            forward(self, datagram, control, client)


def _has_moved(session: Session, backends: Sequence[Backend | None]) -> bool:
    """Whether its backend has another address by now. One that has left keeps its ways back until they idle."""
    backend = backends[session.index]
    return backend is not None and backend.endpoint != session.endpoint
