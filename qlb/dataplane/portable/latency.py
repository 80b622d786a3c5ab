"""The added latency of a sample of packets: from the arrival in the system until the send has returned.

The system stamps each arriving datagram. A socket reports the stamp of the datagram that was received from it last, but
only if it was asked for a stamp before that. On a system without stamps, the time begins when the plane has received
the datagram, so the time in the receive queue is missing.
"""

import fcntl
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Final

from qlb.routing.counters import LATENCY_EVERY, Counters

_SIOCGSTAMPNS: Final = 0x8907
"""Linux: ioctl() that returns the stamp as a struct timespec of the wall clock."""
_TIMESPEC: Final = struct.Struct("@ll")
_NS: Final = 1_000_000_000


class LatencyMeter:
    """The samples of one direction.

    For each batch call is_due() before the first receive. If it returns true, call begin() after the first receive,
    end() after the first datagram has been sent, and cancel() at the end of the batch: perhaps none was sent.
    """

    __slots__ = ("_batches", "_counters", "_direction", "began_ns")

    def __init__(self, counters: Counters, direction: int) -> None:
        """direction: index in DIRECTIONS."""
        self._counters = counters
        self._direction = direction
        self._batches = 0
        self.began_ns = 0
        """The arrival of the sample, on the wall clock; 0 if none has begun."""

    def is_due(self, sock: socket.socket) -> bool:
        """Return whether the next batch from a socket is a sample. Then ask the socket for stamps."""
        self._batches += 1
        if self._batches % LATENCY_EVERY != 1:
            return False
        ask_for_stamps(sock)
        return True

    def begin(self, sock: socket.socket) -> None:
        """Note the arrival of the datagram that was received from a socket last."""
        self.began_ns = _stamp_ns(sock) or time.time_ns()

    def end(self) -> None:
        """Count the sample that has begun."""
        self._counters.count_latency(self._direction, time.time_ns() - self.began_ns)
        self.began_ns = 0

    def cancel(self) -> None:
        """Forget the sample, if it has not ended."""
        self.began_ns = 0


def ask_for_stamps(sock: socket.socket) -> None:
    """Ask the system to stamp the datagrams that arrive at a socket, if it can."""
    _stamp_ns(sock)


def _stamp_ns(sock: socket.socket) -> int:
    """Return the stamp of the datagram that was received last; 0 if the system has none."""
    if sys.platform == "linux":
        with suppress(OSError):
            seconds, nanoseconds = _TIMESPEC.unpack(fcntl.ioctl(sock, _SIOCGSTAMPNS, bytes(_TIMESPEC.size)))
            return int(seconds * _NS + nanoseconds)
    return 0
