"""From clients to backends: the sessions' sockets. A client's first packet opens one; a dead one is replaced."""

import errno
import socket
import sys
from contextlib import suppress
from typing import Final

from qlb.addresses import Endpoint
from qlb.dataplane import ancillary
from qlb.dataplane.limits import PORT_TRIES, REFLECTION_PORTS
from qlb.dataplane.portable import sessions as silence
from qlb.dataplane.portable.replies import Replies, clear_error
from qlb.dataplane.portable.send_errors import is_for_want_of_room, kind_of_errno, may_need_new_socket, send_error_kind
from qlb.dataplane.portable.sessions import Session, SessionTable
from qlb.dataplane.sockets import dropped_at, open_connected
from qlb.routing import counters as layout
from qlb.routing.counters import Counters
from qlb.routing.outcomes import DROP_NO_SESSION, DROP_SEND_FAILED

_REOPEN_PAUSE_S: Final = 0.25
"""The least time between two new sockets of one session because of send errors."""
# Errors of opening and connecting after which evicting a session helps: no descriptor, memory or local port is left.
# Linux reports EADDRNOTAVAIL only if there is no source address; other systems report it if there is no port.
_WANT_OF_PORTS: Final = {errno.EAGAIN, errno.EADDRINUSE} | (set() if sys.platform == "linux" else {errno.EADDRNOTAVAIL})
_EVICTION_HELPS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS} | _WANT_OF_PORTS)


class SessionSockets:
    """Open, use, replace and close sessions' sockets. dscp: of the packets sent, None = as received."""

    def __init__(self, counters: Counters, replies: Replies, dscp: int | None) -> None:
        """Start without sessions."""
        self.dscp = dscp
        self.sessions = SessionTable(self._close)
        self._counters = counters
        self._replies = replies

    def open(self, session: Session, now_s: float) -> int:
        """Open a new session's socket. Return 0, or the packet's outcome if that fails.

        Evicts a session only if descriptors, memory or ports are used up, not if the backend is unreachable.
        """
        try:
            try:
                sock = _connect(session)
            except OSError as error:
                if error.errno not in _EVICTION_HELPS or not self.sessions.evict(now_s):
                    raise
                sock = _connect(session)
        except OSError as error:
            if error.errno in _EVICTION_HELPS:
                return DROP_NO_SESSION
            self._counters.count_send_error(send_error_kind(error), session.index)
            return DROP_SEND_FAILED
        session.sock = sock
        session.local = _local_address(sock)
        if not self._replies.watch(session):
            sock.close()
            return DROP_NO_SESSION
        self.sessions.add(session, now_s)
        return 0

    def send(self, session: Session, datagram: bytes, traffic_class: int, now_s: float) -> int:
        """Send to the backend. Return 0, or the packet's outcome if that fails."""
        if silence.is_silent(session, now_s):
            self._reopen(session, now_s, for_silence=True)
        size_bytes = len(datagram)
        if size_bytes > session.largest_bytes:
            session.largest_bytes = size_bytes
        traffic_class = ancillary.marked(traffic_class, self.dscp)
        if traffic_class != session.traffic_class:
            with suppress(OSError):
                ancillary.set_traffic_class(session.sock, traffic_class)
            session.traffic_class = traffic_class
        try:
            session.sock.send(datagram)
        except OSError as error:
            return 0 if self._send_again(session, datagram, send_error_kind(error), now_s) else DROP_SEND_FAILED
        return 0

    def raise_hop_limit(self, session: Session, hop_limit: int) -> None:
        """Send with a higher hop limit from now on. So a forged first packet does not limit the client's later ones."""
        session.hop_limit = hop_limit
        with suppress(OSError):
            ancillary.set_hop_limit(session.sock, hop_limit)

    def _send_again(self, session: Session, datagram: bytes, kind: int, now_s: float) -> bool:
        """Send a datagram again after an error. Return whether it was sent.

        The error may belong to an earlier datagram (ICMP). If the second try fails too, the error is this datagram's
        own, and a new socket may help, because the local address or the route may have changed.
        """
        if is_for_want_of_room(kind):
            self._count(session, kind, datagram)
            return False
        if pending := clear_error(session.sock):
            self._counters.count_send_error(kind_of_errno(pending), session.index, session.largest_bytes)
        own_kind = self._try(session, datagram)
        if own_kind is None:
            self._counters.count_send_error(kind, session.index, session.largest_bytes)
            return True
        self._count(session, kind, datagram)
        if own_kind != kind:
            self._count(session, own_kind, datagram)
        if not may_need_new_socket(own_kind) or now_s < session.reopen_at_s:
            return False
        session.reopen_at_s = now_s + _REOPEN_PAUSE_S
        if not self._reopen(session, now_s):
            return False
        own_kind = self._try(session, datagram)
        if own_kind is not None:
            self._count(session, own_kind, datagram)
        return own_kind is None

    def _try(self, session: Session, datagram: bytes) -> int | None:
        """Send. Return None, or the kind of the error if it fails."""
        try:
            session.sock.send(datagram)
        except OSError as error:
            return send_error_kind(error)
        return None

    def _count(self, session: Session, kind: int, datagram: bytes) -> None:
        self._counters.count_send_error(kind, session.index, len(datagram))

    def _reopen(self, session: Session, now_s: float, *, for_silence: bool = False) -> bool:
        """Replace a session's socket. Return False if that fails; the session then still has the old one."""
        silence.note_new_socket(session, now_s, for_silence=for_silence)
        try:
            sock = _connect(session)
        except OSError as error:
            self._counters.count_send_error(send_error_kind(error), session.index)
            return False
        self._replies.drain(session)
        self._close(session)
        session.sock = sock
        self.sessions.move(session, _local_address(sock))
        self._replies.watch(session)
        self._counters.slots[layout.SESSIONS_REOPENED] += 1
        return True

    def _close(self, session: Session) -> None:
        self._replies.unwatch(session)
        # Read only now: a system call for each reply would cost too much.
        self._counters.slots[layout.RETURN_OVERFLOWED] += dropped_at(session.sock) or 0
        session.sock.close()


def _connect(session: Session) -> socket.socket:
    """Open a socket with a session's hop limit and traffic class. Raises OSError."""
    sock = _on_a_good_port(session.endpoint)
    with suppress(OSError):
        ancillary.set_hop_limit(sock, session.hop_limit)
        if session.traffic_class:
            ancillary.set_traffic_class(sock, session.traffic_class)
    return sock


def _on_a_good_port(endpoint: Endpoint) -> socket.socket:
    """Open a socket with a local port outside REFLECTION_PORTS, if PORT_TRIES are enough. Raises OSError."""
    refused: list[socket.socket] = []  # open until the end, so that the system does not choose their ports again
    try:
        sock = open_connected(endpoint)
        while _local_address(sock)[1] in REFLECTION_PORTS and len(refused) + 1 < PORT_TRIES:
            refused.append(sock)
            sock = open_connected(endpoint)
        return sock
    except OSError:
        if not refused:
            raise
        return refused.pop()
    finally:
        for one in refused:
            one.close()


def _local_address(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()[:2]
    return host, port
