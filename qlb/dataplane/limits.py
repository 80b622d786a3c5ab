"""How many sessions this machine allows: each needs a descriptor of its worker and a local port.

Functions that compute from figures stand apart from those that ask the system. Nothing here is on the packet path.
"""

import resource
from pathlib import Path
from typing import Final, NamedTuple

SPARE_DESCRIPTORS: Final = 64
"""Kept for all that is no session: listeners, the event loop, files that are open for a moment."""
REFLECTION_PORTS: Final = (1900, 3702, 5353, 5355, 11211)
"""Local ports from 1024 on that sessions avoid: QUIC servers drop packets from them, since attackers reflect from them.

Spec: RFC 9308, section 8.1; 3702 and 5355 are in the list of Google's QUIC code, which Envoy uses too.
"""
PORT_TRIES: Final = 4
"""Sockets that are opened until one has another port; the last one is used in any case."""
_PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RESERVED_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_USABLE_TENTHS: Final = 9
"""Tenths of the local ports that sessions may use. Health probes, DNS and other programs need the rest."""


class Limits(NamedTuple):
    """What the system allows. open_files: the hard limit of a process. local_ports: all together. None: no limit known.

    local_ports is one number for all workers: a socket that connects gets a port that no other UDP socket of the
    network namespace has, of either family, whatever that socket is connected to.
    """

    open_files: int | None
    local_ports: int | None


def affordable_sessions(wanted: int) -> int:
    """Return how many of the wanted sessions this process may open; raises its soft limit as far as it may first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_DESCRIPTORS
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return sessions_within(wanted, None if soft == resource.RLIM_INFINITY else soft)


def read_limits() -> Limits:
    """Ask the system."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(None if hard == resource.RLIM_INFINITY else hard, _local_ports())


def sessions_within(wanted: int, open_files: int | None) -> int:
    """Return how many of the wanted sessions a process of so many descriptors can hold; 1 at least. None: no limit."""
    return wanted if open_files is None else max(min(wanted, open_files - SPARE_DESCRIPTORS), 1)


def descriptor_shortfall(max_sessions: int, limits: Limits) -> str | None:
    """Return what to tell an operator whose limit of open files is below max_sessions; None where all is well."""
    possible = sessions_within(max_sessions, limits.open_files)
    if limits.open_files is None or possible == max_sessions:
        return None
    return (
        f"forwarding.max_sessions is {max_sessions:,}, but a worker may open {limits.open_files:,} files: "
        f"{possible:,} ways back at most; raise the hard limit (systemd: LimitNOFILE, shell: ulimit -n)"
    )


def port_budget(workers: int, limits: Limits) -> int | None:
    """Return how many local ports the sessions of one worker may use; 1 at least. None: the number is not known."""
    if limits.local_ports is None:
        return None
    return max(limits.local_ports * _USABLE_TENTHS // 10 // workers, 1)


def port_shortfall(max_sessions: int, workers: int, uses: int, limits: Limits) -> str | None:
    """Return a warning for an operator who has fewer local ports than sessions; None if there are enough.

    uses: sessions that one port can serve: the backends if the plane shares ports among them, else 1.
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
    """Return how many ports of a range the system gives to programs only by name, as in 8080,9000-9010."""
    try:
        ranges = [part.partition("-") for part in _RESERVED_PORTS.read_text().strip().split(",") if part]
        return sum(max(min(int(end or begin), last) - max(int(begin), first) + 1, 0) for begin, _, end in ranges)
    except (OSError, ValueError):
        return 0
