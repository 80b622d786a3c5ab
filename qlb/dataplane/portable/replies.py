"""From backends to clients: reading the sessions' sockets and sending on the listeners.

On Linux, one epoll instance watches all sockets, and the event loop watches the epoll instance. The loop's own reader
callbacks are not suitable: uvloop stops watching a socket for good when an ICMP error is pending on it. On other
systems the loop watches each socket.

A session is paused while the send queue to its client is filling up (pressure.py). The plane does not read its socket
then, so packets from its backend wait in the socket's receive queue, and only that queue can overflow.
"""

import asyncio
import select
import socket
import sys
import time
from collections import OrderedDict
from typing import Final

from qlb.dataplane import ancillary
from qlb.dataplane.portable import sessions as silence
from qlb.dataplane.portable.latency import LatencyMeter
from qlb.dataplane.portable.send_errors import is_for_want_of_room, send_error_kind
from qlb.dataplane.portable.sessions import Session
from qlb.routing import counters as layout
from qlb.routing.counters import Counters
from qlb.routing.router import Router
from qlb.routing.shown import judge, shown_id

MAX_DATAGRAM_BYTES: Final = 65_535
BATCH: Final = 64
"""Datagrams that the plane reads from one socket before the others."""
_ROUND: Final = 4 * BATCH
"""Receives from paused sessions in one call of _look_again()."""
_LOOK_S: Final = 0.001
_LONG_HEADER_BIT: Final = 0x80
_LIGHT_BYTES: Final = 16_384
_LIGHT_WINDOW_S: Final = 0.1
"""The plane does not pause a session that returns fewer than _LIGHT_BYTES in this time."""


class Replies:
    """Send backends' packets to clients. dscp: of sent packets; None = as received."""

    def __init__(self, counters: Counters, router: Router, dscp: int | None) -> None:
        """Start without sessions. router: the plane's, which checks servers' IDs. Call it on the running event loop."""
        self.dscp = dscp
        self._router = router
        self._counters = counters
        self._latency = LatencyMeter(counters, layout.TO_CLIENT)
        self._watcher = _EpollWatcher(self) if sys.platform == "linux" else _LoopWatcher(self)
        self._paused: OrderedDict[Session, None] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._look_timer: asyncio.TimerHandle | None = None

    def watch(self, session: Session) -> bool:
        """Start to read a session's socket. Return False if the system's limit of watched sockets is reached."""
        try:
            self._watcher.add(session)
        except OSError:
            return False
        return True

    def unwatch(self, session: Session) -> None:
        """Stop reading a session's socket, until watch()."""
        if session.is_paused:
            session.is_paused = False
            del self._paused[session]
        else:
            self._watcher.remove(session)

    def drain(self, session: Session) -> None:
        """Send the received packets of a socket to the client, before the socket is closed."""
        now_s = time.monotonic()
        for _ in range(BATCH):
            if not self._return_one(session, now_s):
                break

    def stop(self) -> None:
        """Stop. Call unwatch() for all sessions first."""
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._watcher.close()

    def read(self, session: Session) -> None:
        """Send a bounded number of a session's received packets to the client."""
        now_s = time.monotonic()
        gate = session.gate
        is_sample = self._latency.is_due(session.sock)
        for _ in range(BATCH):
            if gate.is_closed and not _is_light(session, now_s) and gate.ask():
                return self._pause(session)
            if not self._return_one(session, now_s, is_sample=is_sample):
                return None
            is_sample = False
        return None

    def _pause(self, session: Session) -> None:
        self._watcher.remove(session)
        session.is_paused = True
        self._paused[session] = None
        self._counters.slots[layout.RETURN_PAUSES] += 1
        if self._look_timer is None:
            self._look_timer = self._loop.call_later(_LOOK_S, self._look_again)

    def _look_again(self) -> None:
        """Return one datagram of each paused session in turn while their gates are open."""
        self._look_timer = None
        now_s = time.monotonic()
        for gate in {session.gate for session in self._paused}:
            gate.ask()
        skipped = 0
        for _ in range(_ROUND):
            if skipped >= len(self._paused):
                break
            session = next(iter(self._paused))
            if session.gate.is_closed:
                skipped += 1
            elif self._return_one(session, now_s):
                skipped = 0
            else:
                self.unwatch(session)
                self.watch(session)
                # Not light for a while: otherwise the sessions that were just paused could fill the upper half.
                session.window_s, session.window_bytes = now_s, _LIGHT_BYTES
                continue
            self._paused.move_to_end(session)
        if self._paused:
            self._look_timer = self._loop.call_later(_LOOK_S, self._look_again)

    def _return_one(self, session: Session, now_s: float, *, is_sample: bool = False) -> bool:
        """Receive one datagram and send it to the client. Return False if there was none.

        is_sample: measure the latency of this datagram. The session's socket was asked for stamps.
        """
        try:
            datagram, control, _, _ = session.sock.recvmsg(MAX_DATAGRAM_BYTES, ancillary.BUFFER_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            # The error of an earlier send, such as an ICMP message. recvmsg() has cleared it.
            self._counters.count_send_error(send_error_kind(error), session.index, session.largest_bytes)
            return True
        if is_sample:
            self._latency.begin(session.sock)
        session.last_used_s = now_s
        session.window_bytes += len(datagram)
        if session.is_protected:
            session.renewed = True
        silence.note_answer(session)
        if datagram and datagram[0] & _LONG_HEADER_BIT:
            self._check_shown(session, datagram, now_s)
        was_sent = self._send(session, datagram, ancillary.marked(ancillary.read_traffic_class(control), self.dscp))
        if is_sample and was_sent:
            self._latency.end()
        return True

    def _check_shown(self, session: Session, datagram: bytes, now_s: float) -> None:
        """Count whether the ID that a backend shows to a new connection leads back to it."""
        cid, backend = shown_id(datagram), self._router.snapshot.backends[session.index]
        if cid is None or cid == session.shown or backend is None or backend.endpoint != session.endpoint:
            return
        kind = judge(self._router, cid, session.index, now_s)
        if kind is not None:
            session.shown = cid
            self._counters.count_shown(kind, session.index, cid)

    def _send(self, session: Session, datagram: bytes, traffic_class: int) -> bool:
        """Send a datagram to the client. Return whether it was sent."""
        messages = session.messages
        if traffic_class:
            messages = (*messages, ancillary.traffic_class_message(session.client_family, traffic_class))
        send = session.gate.sock.sendmsg
        try:
            send((datagram,), messages, 0, session.client)
        except OSError as error:
            if not self._send_again(session, datagram, messages, error):
                self._counters.slots[layout.RETURN_DROPPED] += 1
                return False
        session.gate.note_sent(len(datagram))
        self._counters.count_returned(session.index, len(datagram))
        return True

    def _send_again(
        self, session: Session, datagram: bytes, messages: tuple[ancillary.ControlMessage, ...], error: OSError
    ) -> bool:
        """Send again after an error, which may belong to an earlier datagram. Return whether it was sent."""
        kind = send_error_kind(error)
        self._counters.count_send_error(kind)
        if is_for_want_of_room(kind):
            session.gate.ask()
            return False
        sock = session.gate.sock
        clear_error(sock)
        try:
            sock.sendmsg((datagram,), messages, 0, session.client)
        except OSError as own_error:
            if send_error_kind(own_error) != kind:
                self._counters.count_send_error(send_error_kind(own_error))
            return False
        return True


def clear_error(sock: socket.socket) -> int:
    """Clear the pending error of a socket. Return its errno; 0 if there is none."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError:
        return 0


def _is_light(session: Session, now_s: float) -> bool:
    if now_s - session.window_s > _LIGHT_WINDOW_S:
        session.window_s = now_s
        session.window_bytes = 0
    return session.window_bytes < _LIGHT_BYTES


class _LoopWatcher:
    """The event loop watches each socket."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._loop = asyncio.get_running_loop()

    def add(self, session: Session) -> None:
        self._loop.add_reader(session.sock, self._replies.read, session)

    def remove(self, session: Session) -> None:
        self._loop.remove_reader(session.sock)

    def close(self) -> None:
        pass


class _EpollWatcher:
    """One epoll instance watches all sockets."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._sessions: dict[int, Session] = {}
        self._epoll = select.epoll()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._read)

    def add(self, session: Session) -> None:
        descriptor = session.sock.fileno()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._sessions[descriptor] = session

    def remove(self, session: Session) -> None:
        descriptor = session.sock.fileno()
        if self._sessions.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _read(self) -> None:
        for descriptor, _ in self._epoll.poll(0, BATCH):
            session = self._sessions.get(descriptor)
            if session is not None:
                self._replies.read(session)
