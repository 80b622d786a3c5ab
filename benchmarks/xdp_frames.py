"""Frames for benchmarks.xdp: Ethernet frames with QUIC short headers, as clients send them to the service."""

import os
import random
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams

DATAGRAM_BYTES: Final = 300
KEY: Final = bytes(range(16))
SERVICE: Final = Endpoint("192.0.2.1", 4433)
SHAPES: Final = {
    "plaintext": CidParams(0, 4, 10),
    "single pass": CidParams(1, 4, 12, KEY),
    "four-pass, three passes": CidParams(2, 4, 10, KEY),
    "four-pass, four passes": CidParams(3, 9, 5, KEY),
}
_MACS: Final = bytes.fromhex("0200000000010200000000fe")
"""Destination (the interface in0 of the benchmark's network), then source."""


def backend_address(number: int) -> str:
    """Return the IPv4 address of a backend."""
    return f"10.1.{number >> 8}.{number & 0xFF}"


def server_id(number: int, params: CidParams) -> bytes:
    """Return the server ID of a backend."""
    return number.to_bytes(params.server_id_length, "big")


def routable_frames(params: CidParams, backends: int, count: int) -> Iterator[bytes]:
    """Yield frames with different connection IDs, each of a randomly chosen backend."""
    codec, dice = CidCodec(params), random.Random(count)
    for _ in range(count):
        cid = codec.encode(server_id(dice.randrange(backends), params), dice.randbytes(params.nonce_length))
        yield _frame(b"\x40" + cid, dice.randrange(1024, 65536))


def unroutable_frames(count: int) -> Iterator[bytes]:
    """Yield frames with the reserved config rotation bits, each from another client port."""
    return (_frame(b"\x40\xe0", 1024 + number) for number in range(count))


def write_frames(folder: Path, frames: Iterator[bytes]) -> Path:
    """Write frames of one size to a new file in the format of native/frames.c, and return its path."""
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as file:
        first = next(frames)
        file.write(struct.pack("=I", len(first)) + first)
        file.writelines(frames)
    return Path(name)


def _frame(datagram: bytes, port: int) -> bytes:
    """Return a frame from this client port. The UDP checksum is 0, which no part of the benchmark checks."""
    udp = struct.pack("!HHHH", port, SERVICE.port, 8 + DATAGRAM_BYTES, 0) + datagram.ljust(DATAGRAM_BYTES, b"\0")
    addresses = socket.inet_aton("198.51.100.7") + socket.inet_aton(SERVICE.host)
    words = (0x4500, 20 + len(udp), 0, 0x4000, 64 << 8 | 17, *struct.unpack("!4H", addresses))
    total = sum(words) % 0xFFFF
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0xFFFF - total) + addresses
    return _MACS + b"\x08\x00" + head + udp
