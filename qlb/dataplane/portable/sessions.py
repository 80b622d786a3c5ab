"""Sessions of proxy mode: one connected socket for each client 4-tuple and backend.

A session is not routing state. After it is lost, the connection ID routes the client's next packet through a new
socket, and the server sees the client on a new path. So the table can be bounded.

The plane evicts sessions when the table, the descriptors or the local ports are full. A session is protected once its
client has used it at least PROTECT_AFTER_S after its first use. Unprotected sessions are evicted first, so a flood of
spoofed addresses evicts its own sessions and not the calls. Answers of a backend alone never protect a session, because
an attacker can cause them. Within each of the two lists, a clock hand skips sessions that were used since its last
visit.
"""

import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from qlb.addresses import Endpoint
from qlb.dataplane.ancillary import ControlMessage
from qlb.dataplane.portable.admission import SendGate

Address = tuple[str, int] | tuple[str, int, int, int]
"""A client's address in the form of the socket calls."""

SessionKey = tuple[Address, str, SendGate, int]
"""(client, host that it sent to, send queue of the listener that received it, backend index)."""

PROTECT_AFTER_S: Final = 1.0
_HAND_STEPS: Final = 64
"""Sessions that the clock hand skips before it evicts the next one in any case. This bounds the work."""


class Session:
    """A client, a backend and the socket between them.

    local: the socket's own host and port. messages: control messages of all datagrams to the client.
    client_family: of the client's packets; differs from the listener's for IPv4 clients of an IPv6 socket.
    traffic_class, hop_limit: of the packets that the socket sends. largest_bytes: of the datagrams to the backend.
    renewed: used since the clock hand's last visit. is_routable: a packet that its ID routed has used the session.
    reopen_at_s: no new socket before this time because of send errors. shown: the last ID that the backend has shown in
    a long header; None if it has shown none.
    is_answered to first_mark_s belong to is_silent() below; window_s, window_bytes and is_paused to replies.py.
    """

    __slots__ = (
        "client",
        "client_family",
        "endpoint",
        "first_mark_s",
        "first_used_s",
        "gate",
        "hop_limit",
        "index",
        "is_answered",
        "is_paused",
        "is_protected",
        "is_routable",
        "key",
        "largest_bytes",
        "last_used_s",
        "local",
        "mark_s",
        "marks",
        "messages",
        "renewed",
        "reopen_at_s",
        "shown",
        "silence_until_s",
        "silences",
        "sock",
        "traffic_class",
        "window_bytes",
        "window_s",
    )

    def __init__(self, key: SessionKey, endpoint: Endpoint, hop_limit: int, now_s: float) -> None:
        """Describe a session that has no socket yet. endpoint: the backend's address."""
        self.key = key
        self.client, _, self.gate, self.index = key
        self.endpoint = endpoint
        self.hop_limit = hop_limit
        self.sock: socket.socket
        self.local: tuple[str, int] = ("", 0)
        self.messages: tuple[ControlMessage, ...] = ()
        self.client_family = self.gate.sock.family
        self.traffic_class = 0
        self.first_used_s = self.last_used_s = now_s
        self.largest_bytes = 0
        self.reopen_at_s = 0.0
        self.shown: bytes | None = None
        self.renewed = self.is_protected = self.is_routable = False
        self.is_answered = self.is_paused = False
        self.marks = self.silences = self.window_bytes = 0
        self.mark_s = self.first_mark_s = self.silence_until_s = self.window_s = 0.0


class SessionTable:
    """At most ``limit`` sessions. The table calls ``close`` for each session that it removes.

    timeout_s, routable_timeout_s: idle sessions are closed after these, by is_routable.
    evicted: the number of sessions evicted before they were idle for timeout_s; the owner resets it.
    """

    __slots__ = (
        "_close",
        "_locals",
        "_protected",
        "_sessions",
        "_unprotected",
        "evicted",
        "get",
        "limit",
        "routable_timeout_s",
        "timeout_s",
    )

    def __init__(self, close: Callable[[Session], None]) -> None:
        """Start empty with limit 0. Call resize() next."""
        self.limit = 0
        self.timeout_s = self.routable_timeout_s = 0.0
        self.evicted = 0
        self._close = close
        self._sessions: dict[SessionKey, Session] = {}
        self._unprotected: OrderedDict[SessionKey, Session] = OrderedDict()
        self._protected: OrderedDict[SessionKey, Session] = OrderedDict()
        self._locals: set[tuple[str, int]] = set()
        self.get = self._sessions.get
        """Return the session of a key, or None. It is the dictionary's own method, because each packet calls it."""

    def __len__(self) -> int:
        """Return the number of open sessions."""
        return len(self._sessions)

    @property
    def protected(self) -> int:
        """The number of protected sessions."""
        return len(self._protected)

    def has_local(self, host: str, port: int) -> bool:
        """Return whether a session's socket has this local address and port."""
        return (host, port) in self._locals

    def add(self, session: Session, now_s: float) -> None:
        """Add a session; evict others if the table is full."""
        while len(self._sessions) >= self.limit:
            self.evict(now_s)
        self._sessions[session.key] = self._unprotected[session.key] = session
        self._locals.add(session.local)

    def use(self, session: Session, now_s: float) -> None:
        """Record that the client has used a session again."""
        session.renewed = True
        session.last_used_s = now_s
        if not session.is_protected and now_s - session.first_used_s >= PROTECT_AFTER_S:
            session.is_protected = True
            self._protected[session.key] = self._unprotected.pop(session.key)

    def move(self, session: Session, local: tuple[str, int]) -> None:
        """Record that a session has a new socket with this local address."""
        self._locals.discard(session.local)
        session.local = local
        self._locals.add(local)

    def evict(self, now_s: float) -> bool:
        """Close approximately the idlest session, unprotected ones first. Return False if there is none."""
        sessions = self._unprotected or self._protected
        if not sessions:
            return False
        session = _idlest(sessions)
        self.evicted += now_s - session.last_used_s <= self.timeout_s
        self._leave(session)
        return True

    def close_where(self, leaves: Callable[[Session], bool]) -> None:
        """Close every session for which ``leaves`` returns true."""
        for session in [session for session in self._sessions.values() if leaves(session)]:
            self._leave(session)

    def close_idle(self, now_s: float) -> None:
        """Close every session that has been idle for its timeout."""
        before_s = now_s - self.timeout_s
        routable_before_s = now_s - max(self.timeout_s, self.routable_timeout_s)
        self.close_where(lambda one: one.last_used_s < (routable_before_s if one.is_routable else before_s))

    def close_all(self) -> None:
        """Close every session."""
        self.close_where(lambda _: True)

    def resize(self, limit: int, now_s: float) -> None:
        """Apply a new limit and evict the sessions above it."""
        self.limit = limit
        while len(self._sessions) > limit:
            self.evict(now_s)

    def _leave(self, session: Session) -> None:
        del self._sessions[session.key]
        del (self._protected if session.is_protected else self._unprotected)[session.key]
        self._locals.discard(session.local)
        self._close(session)


def _idlest(sessions: OrderedDict[SessionKey, Session]) -> Session:
    """Return the first session that was not used since the last visit. Skipped sessions move to the end."""
    for _ in range(min(_HAND_STEPS, len(sessions))):
        key, session = next(iter(sessions.items()))
        if not session.renewed:
            return session
        session.renewed = False
        sessions.move_to_end(key)
    return next(iter(sessions.values()))


# Silence. A socket may be dead without an error: its IPv6 source address was removed, or a NAT on the path translates
# to a target that no longer exists. A new socket helps in both cases. A mark is a datagram of the client at least
# _MARK_S after the previous mark, so that a burst of acknowledgements is one mark. A session is silent if at least
# _MARKS marks and _SILENCE_S have passed since the first mark without an answer.
_MARK_S: Final = 0.1
_MARKS: Final = 3
_SILENCE_S: Final = 0.5
"""Since the first mark."""
_PAUSE_S: Final = 1.0
"""After this time between two marks a new count begins. It is also the first wait between two sockets."""
_MAX_DOUBLINGS: Final = 4
"""The wait between two sockets: 1, 2, 4, 8, 16 s."""


def is_silent(session: Session, now_s: float) -> bool:
    """Record a datagram of the client. Return whether the session needs a new socket before the datagram is sent."""
    if not session.is_answered or now_s - session.mark_s < _MARK_S:
        return False
    if not session.marks or now_s - session.mark_s > _PAUSE_S:
        session.marks = 0
        session.first_mark_s = now_s
    session.mark_s = now_s
    session.marks += 1
    return session.marks >= _MARKS and now_s - session.first_mark_s >= _SILENCE_S and now_s >= session.silence_until_s


def note_new_socket(session: Session, now_s: float, *, for_silence: bool) -> None:
    """Start the count again. for_silence: the next new socket for this reason has to wait longer."""
    session.marks = 0
    if for_silence:
        session.silence_until_s = now_s + _PAUSE_S * 2**session.silences
        session.silences = min(session.silences + 1, _MAX_DOUBLINGS)


def note_answer(session: Session) -> None:
    """Record a datagram of the backend."""
    session.is_answered = True
    session.marks = session.silences = 0
