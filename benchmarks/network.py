"""A network of its own for each forwarder and its load: thousands of sockets a side, and nobody else's packets."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

_WAYS: Final = (("--net",), ("--user", "--map-root-user", "--net"))
_INSIDE: Final = 'ip link set lo up && echo "10000 65000" >/proc/sys/net/ipv4/ip_local_port_range && exec "$@"'
"""The kernel gives away 28,000 ports by default; 10,000 sessions and others' leftovers want more."""
PORT: Final = 4433
"""Where a forwarder listens in a network of its own: below the ports that its kernel gives away."""


@cache
def namespace_options() -> tuple[str, ...]:
    """The options of unshare and nsenter that make a network here; none where it is not allowed."""
    for options in _WAYS:
        try:
            subprocess.run([*_unshare(options), "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return options
    return ()


def in_new_network(command: list[str]) -> list[str]:
    """The command in a network of its own, where one can be made. It replaces the one that starts it."""
    options = namespace_options()
    return [*_unshare(options), *command] if options else command


def in_network_of(pid: int, command: list[str]) -> list[str]:
    """The command in the network of a process that in_new_network started."""
    options = namespace_options()
    if not options:
        return command
    credentials = ["--preserve-credentials", "--user"] if "--user" in options else []
    return ["nsenter", f"--target={pid}", "--net", *credentials, "--", *command]


def forwarder_port() -> int:
    """A UDP port for the next forwarder."""
    if namespace_options():
        return PORT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def cores() -> tuple[int, int]:
    """The core of the forwarder, and that of the load: the same one where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Start processes on one core within the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _unshare(options: tuple[str, ...]) -> list[str]:
    return ["unshare", *options, "--", "sh", "-c", _INSIDE, "sh"]
