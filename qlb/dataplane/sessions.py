"""Proxy mode's ways back: one connected socket for each client 4-tuple and backend.

A session is no routing state. Lose it and the client's next packet is routed by its connection ID all the
same, through a new socket; the server sees the client on a new path. Hence the bound: when it is reached,
the session that has been idle longest goes, approximately (a clock hand passes over sessions used since
its last visit), so that a flood of spoofed addresses, each seen once, pushes out itself and not the calls.
"""

import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from qlb.dataplane.ancillary import ControlMessage
from qlb.routing.backends import Endpoint

Address = tuple[str, int] | tuple[str, int, int, int]
"""A client's address as the socket calls give and take it."""

SessionKey = tuple[Address, str, socket.socket, int]
"""(client, host that it sent to, listener that received it, backend index)."""

_HAND_STEPS: Final = 64
"""Sessions that the clock hand passes before it takes the next one whatever its use: a bound on the work."""


class Session:
    """A way back. ``renewed`` is set on every use but the first."""

    __slots__ = ("client", "ecn", "endpoint", "index", "key", "last_used_s", "listener", "renewed", "reply", "sock")

    def __init__(
        self, key: SessionKey, sock: socket.socket, endpoint: Endpoint, reply: tuple[ControlMessage, ...]
    ) -> None:
        """sock: connected to endpoint, the backend's. reply: control messages that every answer carries."""
        self.key = key
        self.client, _, self.listener, self.index = key
        self.sock = sock
        self.endpoint = endpoint
        self.reply = reply
        self.ecn = 0
        self.last_used_s = 0.0
        self.renewed = False


class SessionTable:
    """At most ``limit`` sessions. ``close`` is called with each one that leaves."""

    __slots__ = ("_close", "_sessions", "evicted", "get", "limit")

    def __init__(self, limit: int, close: Callable[[Session], None]) -> None:
        """Start empty. limit: sessions. evicted: counts those that left for want of room."""
        self.limit = limit
        self.evicted = 0
        self._close = close
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self.get = self._sessions.get
        """Return the session of a key, or None: the table's own method, once per packet."""

    def __len__(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Keep a session, after making room for it."""
        while len(self._sessions) >= self.limit:
            self.evict()
        self._sessions[session.key] = session

    def evict(self) -> bool:
        """Close the session that has been idle longest, approximately. Returns whether there was one."""
        sessions = self._sessions
        for _ in range(min(_HAND_STEPS, len(sessions))):
            key, session = sessions.popitem(last=False)
            if not session.renewed:
                return self._leave(session)
            session.renewed = False
            sessions[key] = session
        if not sessions:
            return False
        return self._leave(sessions.popitem(last=False)[1])

    def close_where(self, leaves: Callable[[Session], bool]) -> None:
        """Close every session of which this is true."""
        self._close_all([session for session in self._sessions.values() if leaves(session)])

    def close_idle(self, before_s: float) -> None:
        """Close every session that was last used before a time."""
        self.close_where(lambda session: session.last_used_s < before_s)

    def close_all(self) -> None:
        """Close every session."""
        self._close_all(list(self._sessions.values()))

    def resize(self, limit: int) -> None:
        """Apply a new limit to what is there."""
        self.limit = limit
        while len(self._sessions) > limit:
            self.evict()

    def _close_all(self, sessions: list[Session]) -> None:
        for session in sessions:
            del self._sessions[session.key]
            self._close(session)

    def _leave(self, session: Session) -> bool:
        self.evicted += 1
        self._close(session)
        return True
