"""Ports for a process that binds them later: free now, and outside the range of automatic ports.

A daemon that is killed and started again must find its port free, so it cannot use port 0.
"""

import asyncio
import random
import socket
from typing import Final

_RANGE: Final = range(12_000, 32_000)
_TRIES: Final = 200
_POLL_S: Final = 0.02


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that no socket uses now, neither over UDP nor over TCP."""
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        if all(_is_free(host, port, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)):
            return port
    raise OSError(f"no free port on {host} among {_TRIES} tried")


async def until_free(host: str, port: int) -> None:
    """Wait until a UDP port is free."""
    while not _is_free(host, port, socket.SOCK_DGRAM):
        await asyncio.sleep(_POLL_S)


def is_bound(host: str, port: int) -> bool:
    """Return whether a UDP port is in use."""
    return not _is_free(host, port, socket.SOCK_DGRAM)


def _is_free(host: str, port: int, kind: socket.SocketKind) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as sock:
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True
