"""The number of sessions that this machine allows. Each session needs a descriptor of its worker and a local port.

Functions that compute are separate from those that ask the system. The packet path calls none of them.
"""

import resource
from pathlib import Path
from typing import Final, NamedTuple

MOST_AUTO_SESSIONS: Final = 65_536
"""The sessions of one worker with `max_sessions: auto`, if the system grants as many.

A flood can open them all. They then use 275 MiB (4.3 KB each), which the memory limits in deploy/ allow for.
"""
SPARE_DESCRIPTORS: Final = 64
"""Descriptors that sessions do not use: listeners, the event loop, and files that are open for a moment."""
REFLECTION_PORTS: Final = (1900, 3702, 5353, 5355, 11211)
"""Local ports from 1024 on that sessions avoid: QUIC servers drop packets from them, because of reflection attacks.

Spec: RFC 9308, section 8.1. 3702 and 5355 are from the list of Google's QUIC code, which Envoy also uses.
"""
PORT_TRIES: Final = 4
"""A session tries up to this many sockets to avoid these ports, and uses the last one in any case."""
_PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RESERVED_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_USABLE_TENTHS: Final = 9
"""Tenths of the local ports that sessions may use. Health probes, DNS and other programs need the rest."""


class Limits(NamedTuple):
    """The system's limits. open_files: the hard limit of a process. local_ports: their number. None: no known limit.

    All workers share the local ports: when a UDP socket connects, the kernel gives it a port that no other UDP socket
    of the network namespace has, of either family and with any peer.
    """

    open_files: int | None
    local_ports: int | None


def affordable_sessions(wanted: int) -> int:
    """Raise the soft limit of open files for the wanted sessions. Return how many of them this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_DESCRIPTORS
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return sessions_within(wanted, None if soft == resource.RLIM_INFINITY else soft)


def read_limits() -> Limits:
    """Read the system's limits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(None if hard == resource.RLIM_INFINITY else hard, _local_ports())


def sessions_within(wanted: int, open_files: int | None) -> int:
    """Return how many of the wanted sessions a process with this limit can open, at least 1. None: no limit."""
    return wanted if open_files is None else max(min(wanted, open_files - SPARE_DESCRIPTORS), 1)


def granted_sessions(wanted: int, workers: int, uses: int, limits: Limits) -> int:
    """Return how many of the wanted sessions each worker can have open, at least 1. uses: as in port_shortfall()."""
    budget = port_budget(workers, limits)
    return sessions_within(wanted if budget is None else min(wanted, budget * uses), limits.open_files)


def descriptor_shortfall(max_sessions: int, limits: Limits) -> str | None:
    """Return a warning if the limit of open files is too low for max_sessions; None if it is not."""
    possible = sessions_within(max_sessions, limits.open_files)
    if limits.open_files is None or possible == max_sessions:
        return None
    return (
        f"forwarding.max_sessions is {max_sessions:,}, but a worker may open {limits.open_files:,} files: "
        f"{possible:,} sessions at most; raise the hard limit (systemd: LimitNOFILE, shell: ulimit -n)"
    )


def port_budget(workers: int, limits: Limits) -> int | None:
    """Return how many local ports the sessions of one worker may use, at least 1; None if the system reports none."""
    if limits.local_ports is None:
        return None
    return max(limits.local_ports * _USABLE_TENTHS // 10 // workers, 1)


def port_shortfall(max_sessions: int, workers: int, uses: int, limits: Limits) -> str | None:
    """Return a warning if there are too few local ports for max_sessions; None if there are enough.

    uses: sessions that one port serves: the number of backends if the plane shares ports among them, else 1.
    """
    budget = port_budget(workers, limits)
    if budget is None or max_sessions <= budget * uses:
        return None
    return (
        f"forwarding.max_sessions is {max_sessions:,} for each of {workers} workers, but there are "
        f"{limits.local_ports:,} local ports for all: a worker may use {budget:,}, and one serves {uses:,} sessions at "
        "most; widen the sysctl net.ipv4.ip_local_port_range"
    )


def _local_ports() -> int | None:
    try:
        first, last = map(int, _PORT_RANGE.read_text().split())
    except (OSError, ValueError):
        return None
    return max(last - first + 1 - _reserved_ports(first, last), 1)


def _reserved_ports(first: int, last: int) -> int:
    """Return the number of reserved ports in a range. The system lists them as 8080,9000-9010."""
    try:
        ranges = [part.partition("-") for part in _RESERVED_PORTS.read_text().strip().split(",") if part]
        return sum(max(min(int(end or begin), last) - max(int(begin), first) + 1, 0) for begin, _, end in ranges)
    except (OSError, ValueError):
        return 0
