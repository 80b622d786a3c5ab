"""Bounds under load: the send queue to clients, which all clients of a listener share, and the opening of sessions.

A client behind a slow link could fill the send queue, and other clients would lose packets. So the plane pauses
sessions (replies.py) while half of the queue or more is in use. It does not pause sessions that return few octets, such
as calls: the upper half of the queue is for them.

Reading the length of the queue is a system call. The plane reads it once per _ASK_BYTES sent, after a send that found
the queue full, and while sessions are paused. Systems other than Linux do not report it, so their gate is always open.
"""

import fcntl
import socket
import struct
import sys
from typing import Final

from qlb.routing.outcomes import CONFIG_IDS

_SIOCOUTQ: Final = 0x5411
_ASK_BYTES: Final = 65_536
_OVERHEAD_BYTES: Final = 768
"""Roughly the memory that Linux adds to each datagram in the queue: SO_SNDBUF limits memory, not payload."""
_INT: Final = struct.Struct("i")


class SendGate:
    """The send queue of one listener. is_closed: half of it or more was in use at the last ask()."""

    __slots__ = ("_limit_bytes", "_unasked_bytes", "is_closed", "sock")

    def __init__(self, sock: socket.socket) -> None:
        """Measure a listener's send buffer."""
        self.sock = sock
        self.is_closed = False
        self._unasked_bytes = 0
        # SO_SNDBUF and SIOCOUTQ both count octets with the kernel's own bookkeeping.
        self._limit_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2

    def note_sent(self, size_bytes: int) -> None:
        """Count a datagram; read the length of the queue once per _ASK_BYTES."""
        self._unasked_bytes += size_bytes + _OVERHEAD_BYTES
        if self._unasked_bytes >= _ASK_BYTES:
            self.ask()

    def ask(self) -> bool:
        """Read the length of the queue. Return whether the gate is closed."""
        self._unasked_bytes = 0
        self.is_closed = _queued_bytes(self.sock) >= self._limit_bytes
        return self.is_closed


def _queued_bytes(sock: socket.socket) -> int:
    """Return the unsent octets of a socket; 0 if the system does not report them."""
    if sys.platform != "linux":
        return 0
    try:
        return int(_INT.unpack(fcntl.ioctl(sock.fileno(), _SIOCOUTQ, bytes(_INT.size)))[0])
    except OSError:
        return 0


MAX_OPENS: Final = 512
"""Unused opens of one kind that can accumulate. The kinds: packets that are routed by their ID, and all others."""
OPENS_PER_S: Final = 1000.0
"""Opens of one kind that accumulate each second: they use a fifth of a core."""


class Admission:
    """The number of sessions that full batches may open."""

    __slots__ = ("_opens", "_refilled_s")

    def __init__(self, now_s: float) -> None:
        """Start with MAX_OPENS of each kind."""
        self._opens = [float(MAX_OPENS)] * 2
        self._refilled_s = now_s

    def refill(self, now_s: float) -> None:
        """Add the opens for the time since the last call."""
        more = (now_s - self._refilled_s) * OPENS_PER_S
        self._opens = [min(opens + more, MAX_OPENS) for opens in self._opens]
        self._refilled_s = now_s

    def admits(self, outcome: int) -> bool:
        """Return whether a packet may open a session, and subtract the open."""
        kind = outcome < CONFIG_IDS
        if self._opens[kind] < 1:
            return False
        self._opens[kind] -= 1
        return True
