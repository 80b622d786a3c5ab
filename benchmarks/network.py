"""Network namespaces: each forwarder gets one with its load, for thousands of ports and no other traffic."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

_WAYS: Final = (("--net",), ("--user", "--map-root-user", "--net"))
_INSIDE: Final = 'ip link set lo up && echo "10000 65000" >/proc/sys/net/ipv4/ip_local_port_range && exec "$@"'
"""By default the kernel has 28,000 local ports: too few for 10,000 sessions and ports that are still in use."""
PORT: Final = 4433
"""Port of a forwarder in its own namespace: below the range of local ports."""


@cache
def namespace_options() -> tuple[str, ...]:
    """Return the options of unshare that create a network namespace; empty if this user may not create one."""
    for options in _WAYS:
        try:
            subprocess.run([*_unshare(options), "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return options
    return ()


def in_new_network(command: list[str]) -> list[str]:
    """Return the command that runs `command` in a new network namespace, if this user may create one.

    The wrapper executes it in its own process, so the process ID is that of `command`.
    """
    options = namespace_options()
    return [*_unshare(options), *command] if options else command


def in_network_of(pid: int, command: list[str]) -> list[str]:
    """Return the command that runs `command` in the namespace of a process started by in_new_network."""
    options = namespace_options()
    if not options:
        return command
    credentials = ["--preserve-credentials", "--user"] if "--user" in options else []
    return ["nsenter", f"--target={pid}", "--net", *credentials, "--", *command]


def forwarder_port() -> int:
    """Return a UDP port for the next forwarder."""
    if namespace_options():
        return PORT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def cores() -> tuple[int, int]:
    """Return the forwarder's core and the load's core; they are the same on a machine with one core."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin processes that the block starts to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _unshare(options: tuple[str, ...]) -> list[str]:
    return ["unshare", *options, "--", "sh", "-c", _INSIDE, "sh"]
