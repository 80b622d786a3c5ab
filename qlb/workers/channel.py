"""The messages between the supervisor and a worker: frames over a private pair of Unix sockets.

A frame is a length (32 bits, big-endian) and a pickle. Pickle is safe here: one of the two processes started the other,
and no frame contains octets of a packet. Before its first frame, a worker receives descriptors: its listeners and the
memory of its counters.
"""

import asyncio
import pickle
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from qlb.dataplane.base import Orders

_LENGTH: Final = struct.Struct(">I")
_MAX_DESCRIPTORS: Final = 250
"""The listeners of one worker, and one for the counters. The kernel passes at most 253 at once."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The first message to a worker. The last of its descriptors is the counters' memory.

    cpu: the one core to run on; None = the system chooses. paused: start as after Pause(True).
    """

    plane: str
    orders: Orders
    cpu: int | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """A worker's answer to an assignment or to new orders: it forwards by this generation now.

    remark: a part of the assignment that the worker could not follow, for the log; "" if there is none.
    """

    generation: int
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """The order to pause reading from clients, or to resume it; replies continue."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Paused:
    """A worker's answer to Pause: the order has taken effect."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """A worker's first message: it has imported everything and waits for its assignment."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker's answer if it could not start. The worker ends after it."""

    reason: str


Message = Assignment | Orders | Pause | Applied | Paused | Waiting | Failed


def pack(message: Message) -> bytes:
    """Return the frame of a message."""
    octets = pickle.dumps(message)
    return _LENGTH.pack(len(octets)) + octets


def send_descriptors(sock: socket.socket, descriptors: Sequence[int]) -> None:
    """Send descriptors, before the first frame. Raises OSError if the peer has ended."""
    socket.send_fds(sock, [bytes([len(descriptors)])], descriptors)


def receive_descriptors(sock: socket.socket) -> list[int]:
    """Wait for the descriptors before the first frame. Raises EOFError if the peer has ended."""
    octets, descriptors, _, _ = socket.recv_fds(sock, 1, _MAX_DESCRIPTORS)
    if not octets:
        raise EOFError("the supervisor has ended")
    return descriptors


async def receive(reader: asyncio.StreamReader) -> Message:
    """Wait for a message. Raises asyncio.IncompleteReadError (an EOFError) if the peer has ended."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    message: Message = pickle.loads(await reader.readexactly(length))  # noqa: S301 (see the module's docstring)
    return message
