"""Between the supervisor and a worker: frames over a pair of Unix sockets that only these two hold.

A frame is a length (32 bits, big-endian) and a pickle. Pickle is safe here: the peer is the process that
this one started, or was started by, and no byte of a packet ever travels this way. The first frame to a
worker carries descriptors: its listeners and the memory of its counters.
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
"""The kernel passes 253 at once: listeners of one worker, and one for the counters."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The first message: what a worker is to be. The last descriptor that comes along is the counters' memory.

    cpu: the one core that it is to run on; None = wherever the system puts it. paused: begin as after Pause(True).
    """

    plane: str
    orders: Orders
    cpu: int | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """A worker's answer to an assignment, or to new orders: it forwards by this generation now.

    remark: what it does otherwise than it was told, for the log; "" for nothing.
    """

    generation: int
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """To a worker: leave what clients send in the listeners (replies go back all the while), or read it again."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Paused:
    """A worker's answer to Pause: it is so."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """The first message of a worker that was told its supervisor's process ID: it has imported everything."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker's answer when it could not begin; it ends after it."""

    reason: str


Message = Assignment | Orders | Pause | Applied | Paused | Waiting | Failed


def pack(message: Message) -> bytes:
    """Return the frame of a message."""
    octets = pickle.dumps(message)
    return _LENGTH.pack(len(octets)) + octets


def send_descriptors(sock: socket.socket, descriptors: Sequence[int]) -> None:
    """Send descriptors, ahead of the first frame. Raises OSError where the peer is gone."""
    socket.send_fds(sock, [bytes([len(descriptors)])], descriptors)


def receive_descriptors(sock: socket.socket) -> list[int]:
    """Wait for the descriptors that come ahead of the first frame. Raises EOFError where the peer is gone."""
    octets, descriptors, _, _ = socket.recv_fds(sock, 1, _MAX_DESCRIPTORS)
    if not octets:
        raise EOFError("the supervisor is gone")
    return descriptors


async def receive(reader: asyncio.StreamReader) -> Message:
    """Wait for a message. Raises asyncio.IncompleteReadError (an EOFError) where the peer is gone."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    message: Message = pickle.loads(await reader.readexactly(length))  # noqa: S301 (see the module's docstring)
    return message
