"""The send queue towards clients. All clients of a listener share it.

A client behind a slow link could fill the queue and cost the other clients their packets. So while half of it or more
is in use, sessions are paused (replies.py). Sessions that return little, such as calls, are not paused: the upper half
of the queue is theirs.

The length of the queue costs a system call. It is read once per _ASK_BYTES sent, after a send that found the queue
full, and while sessions are paused. Systems other than Linux do not report it: there the gate is always open.
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
"""About what Linux adds to each datagram in the queue: SO_SNDBUF limits memory, not payload."""
_INT: Final = struct.Struct("i")


class SendGate:
    """The send queue of one listener. is_closed: half of it or more was in use when it was last asked for."""

    __slots__ = ("_limit_bytes", "_unasked_bytes", "is_closed", "sock")

    def __init__(self, sock: socket.socket) -> None:
        """Measure a listener's send buffer."""
        self.sock = sock
        self.is_closed = False
        self._unasked_bytes = 0
        # Both SO_SNDBUF and SIOCOUTQ are in the kernel's unit: octets with its bookkeeping.
        self._limit_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2

    def note_sent(self, size_bytes: int) -> None:
        """Count a datagram; ask for the length of the queue when enough have been sent."""
        self._unasked_bytes += size_bytes + _OVERHEAD_BYTES
        if self._unasked_bytes >= _ASK_BYTES:
            self.ask()

    def ask(self) -> bool:
        """Read the length of the queue. Return whether the gate is closed."""
        self._unasked_bytes = 0
        self.is_closed = _queued_bytes(self.sock) >= self._limit_bytes
        return self.is_closed


def _queued_bytes(sock: socket.socket) -> int:
    """Return the octets of a socket that are not sent yet, 0 if the system does not report them."""
    if sys.platform != "linux":
        return 0
    try:
        return int(_INT.unpack(fcntl.ioctl(sock.fileno(), _SIOCOUTQ, bytes(_INT.size)))[0])
    except OSError:
        return 0


MAX_OPENS: Final = 512
"""Opens of one kind that can be saved up."""
OPENS_PER_S: Final = 1000.0
"""Further opens of one kind: a fifth of a core."""


class Admission:
    """The sessions that full batches may open."""

    __slots__ = ("_opens", "_refilled_s")

    def __init__(self, now_s: float) -> None:
        """Start with all opens saved up."""
        self._opens = [float(MAX_OPENS)] * 2
        self._refilled_s = now_s

    def refill(self, now_s: float) -> None:
        """Add the opens that the time since the last call has brought."""
        more = (now_s - self._refilled_s) * OPENS_PER_S
        self._opens = [min(opens + more, MAX_OPENS) for opens in self._opens]
        self._refilled_s = now_s

    def admits(self, outcome: int) -> bool:
        """Return whether a packet may open a session; count it if so."""
        kind = outcome < CONFIG_IDS
        if self._opens[kind] < 1:
            return False
        self._opens[kind] -= 1
        return True
