"""Ports that a process will bind later: free now, and outside the range that the kernel gives away.

A daemon that is killed and started again must find its port free, so port 0 cannot be used for it.
"""

import asyncio
import random
import socket
from typing import Final

_RANGE: Final = range(12_000, 32_000)
_TRIES: Final = 200
_POLL_S: Final = 0.02


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nothing uses now, neither over UDP nor over TCP."""
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        if all(_is_free(host, port, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)):
            return port
    raise OSError(f"no free port on {host} among {_TRIES} tried")


async def until_free(host: str, port: int) -> None:
    """Wait until no process holds a UDP port any more."""
    while not _is_free(host, port, socket.SOCK_DGRAM):
        await asyncio.sleep(_POLL_S)


def is_bound(host: str, port: int) -> bool:
    """Whether a process holds a UDP port."""
    return not _is_free(host, port, socket.SOCK_DGRAM)


def _is_free(host: str, port: int, kind: socket.SocketKind) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as sock:
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True
