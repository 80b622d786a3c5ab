"""Other processes, as Linux's /proc shows them: whether they can run, and which of them use qlb's addresses.

The vital signs of a process distinguish one that hangs from one that gets no processor time: the latter waits in state
R and uses none.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from qlb.addresses import Endpoint
from qlb.errors import QlbError
from qlb.local_addresses import address_of, family_of

_PROC: Final = Path("/proc")
_RUNNABLE: Final = "R"
_UTIME: Final = 11
"""Index of the user time among the fields that follow the command's name; the system time is next."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_ENOUGH_CPU_S: Final = 2.0
"""Processor time that is enough for any awaited step; a process that has used it is not starved."""


class Vitals(NamedTuple):
    """The vital signs of a process.

    runnable: any thread runs or waits for a processor. main_runnable: its first thread does. cpu_s: processor time of
    all threads together. state: letter of the first thread's state, as in ps(1).
    """

    runnable: bool
    main_runnable: bool
    cpu_s: float
    state: str


def read_vitals(pid: int, proc: Path = _PROC) -> Vitals | None:
    """Return the vital signs of a process; None if it has ended, or if the system has no /proc."""
    try:
        state, cpu_s = _read_stat(proc / str(pid) / "stat")
        threads = [_read_stat(stat)[0] for stat in _thread_stats(proc / str(pid) / "task")]
    except (OSError, ValueError, IndexError):
        return None
    return Vitals(_RUNNABLE in (state, *threads), state == _RUNNABLE, cpu_s, state)


def read_children(pid: int, proc: Path = _PROC) -> tuple[int, ...]:
    """Return the process IDs of a process's children; none if the system does not report them."""
    try:
        listed = (proc / str(pid) / "task" / str(pid) / "children").read_text()
    except OSError:
        return ()
    return tuple(map(int, listed.split()))


def _thread_stats(task: Path) -> Iterator[Path]:
    for thread in task.iterdir():
        with suppress(FileNotFoundError):  # the thread has ended since
            yield thread / "stat"


def _read_stat(path: Path) -> tuple[str, float]:
    """Return the state and the processor time of a process or a thread. Its name may contain brackets."""
    fields = path.read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / _TICKS_PER_S


class Starvation:
    """A check whether a late process and its children only wait for a processor."""

    def __init__(self, pid: int, look: Callable[[int], Vitals | None] = read_vitals) -> None:
        """Start now. look: reads vital signs."""
        self._pid = pid
        self._look = look
        self._begun_cpu_s = self._cpu_s(self._read())

    def continues(self) -> bool:
        """Return whether any thread can run and all together have used little processor time since the start."""
        seen = self._read()
        return any(one.runnable for one in seen) and self._cpu_s(seen) - self._begun_cpu_s < _ENOUGH_CPU_S

    def _read(self) -> list[Vitals]:
        found = map(self._look, (self._pid, *read_children(self._pid)))
        return [vitals for vitals in found if vitals is not None]

    @staticmethod
    def _cpu_s(seen: Sequence[Vitals]) -> float:
        return sum(vitals.cpu_s for vitals in seen)


log = logging.getLogger("qlb")

_POLL_S: Final = 0.1
_PATIENCE_S: Final = 2.0
"""The longest wait for an address of a process that is about to end, such as a worker of a killed daemon."""
_INTERVAL_S: Final = 30.0
_MAX_NAME: Final = 120
_WORD_BYTES: Final = 4


class Stranger(NamedTuple):
    """A socket of another process. inode: the kernel's number of the socket, 0 if unknown."""

    host: str
    inode: int
    uid: int | None


class AddressWatch:
    """A periodic check for other processes on the service's addresses. It logs a warning when one appears."""

    def __init__(self) -> None:
        """Start without findings."""
        self.counts: dict[Endpoint, int] = {}
        """Address → number of other processes' sockets at the last check; empty if they are allowed."""

    async def follow(self, endpoints: Sequence[Endpoint], own: Collection[int], *, shared: bool) -> None:
        """Check periodically. own: inodes of this daemon's sockets. shared: others are allowed, so do not check."""
        while not shared:
            await asyncio.sleep(_INTERVAL_S)
            await self.look(endpoints, own)

    async def look(self, endpoints: Sequence[Endpoint], own: Collection[int]) -> None:
        """Check once."""
        for endpoint in endpoints:
            found = await asyncio.to_thread(find_strangers, endpoint, own)
            if found and not self.counts.get(endpoint):
                names = " and ".join(await asyncio.to_thread(_names, found))
                log.warning("%s is in use by %s, too: each gets a part of the clients", endpoint, names)
            self.counts[endpoint] = len(found)


async def check_addresses(endpoints: Sequence[Endpoint], own: Collection[int], *, shared: bool) -> None:
    """Check for other processes on addresses before they are bound.

    own: inodes of the sockets that were passed to this process. shared: log a warning about others instead of an error.
    Raises QlbError with the name of the process, if it can be found.
    """
    for endpoint in endpoints:
        looks = round(_PATIENCE_S / _POLL_S)
        while (found := _before_binding(endpoint, own)) and not shared and looks:
            looks -= 1
            await asyncio.sleep(_POLL_S)
        if not found:
            continue
        names = " and ".join(await asyncio.to_thread(_names, found))
        if not shared:
            raise QlbError(
                f"{endpoint} is in use by {names}, and each of the two would get a part of the clients: stop it, or "
                "set forwarding.shared_listen: true to share the address"
            )
        log.warning("%s is shared with %s (forwarding.shared_listen)", endpoint, names)


def find_strangers(
    endpoint: Endpoint, own: Collection[int], proc: Path = _PROC, *, protocol: str = "udp"
) -> list[Stranger]:
    """Return other processes' sockets that can receive packets to an address; none if the system does not list them.

    own: inodes of this process's sockets. A connected socket receives only from its peer, so it does not count.
    protocol: udp or tcp.
    """
    host = ipaddress.ip_address(endpoint.host.partition("%")[0])
    table = f"{protocol}6" if host.version == 6 else protocol
    return [
        Stranger(str(bound), inode, uid)
        for bound, port, inode, uid in _bound_sockets(proc / "net" / table)
        if port == endpoint.port and inode not in own and (bound == host or bound.is_unspecified or host.is_unspecified)
    ]


def tcp_holder(endpoint: Endpoint) -> str:
    """Return a text that names the process that listens on a TCP address."""
    return " and ".join(_names(find_strangers(endpoint, (), protocol="tcp"))) or "another process"


def holder_of(inode: int, uid: int | None = None, proc: Path = _PROC) -> str:
    """Return a text that names the owner of a socket: the process and its command, or the visible part of it."""
    holders = {pid for pid in _pids(proc) if inode and _holds(proc / str(pid) / "fd", inode)}
    roots = [pid for pid in sorted(holders) if _parent(proc / str(pid)) not in holders]
    if roots:
        return f"process {roots[0]} ({_command(proc / str(roots[0]))})"
    return "another process" if uid is None else f"a process of user {uid}"


def _before_binding(endpoint: Endpoint, own: Collection[int]) -> list[Stranger]:
    """Return the sockets that use an address. Try to bind it first: IPv6 sockets may also occupy IPv4 addresses."""
    refusal = _refusal_to_bind(endpoint) if endpoint.port else 0
    if not refusal:
        return []
    found = find_strangers(endpoint, own)
    if refusal != errno.EADDRINUSE:  # such as an address that does not exist yet: another process may wait for it
        return found
    is_link_local = ipaddress.ip_address(endpoint.host.partition("%")[0]).is_link_local
    if own and (not found or is_link_local):  # /proc does not show the link of a socket
        return []
    both = Endpoint("::", endpoint.port)
    return found or find_strangers(both, own) or [Stranger(endpoint.host, 0, None)]


def _refusal_to_bind(endpoint: Endpoint) -> int:
    """Return the errno of binding an address without SO_REUSEPORT: EADDRINUSE if a socket uses it, 0 if it is free."""
    try:
        with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as sock:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address_of(endpoint))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _names(strangers: Sequence[Stranger]) -> list[str]:
    return sorted({holder_of(one.inode, one.uid) for one in strangers})


def _bound_sockets(
    table: Path,
) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int, int, int]]:
    """Yield (address, port, inode, user) of each socket of a table that is not connected."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        with suppress(IndexError, ValueError):
            remote, _, remote_port = fields[2].partition(":")
            if int(remote, 16) or int(remote_port, 16):
                continue
            local, _, port = fields[1].partition(":")
            yield ipaddress.ip_address(_octets(local)), int(port, 16), int(fields[9]), int(fields[7])


def _octets(words: str) -> bytes:
    """Return the octets of an address in /proc/net: 32-bit words in the machine's byte order."""
    size = 2 * _WORD_BYTES
    parts = (words[at : at + size] for at in range(0, len(words), size))
    return b"".join(int(part, 16).to_bytes(_WORD_BYTES, sys.byteorder) for part in parts)


def _pids(proc: Path) -> list[int]:
    with suppress(OSError):
        return [int(path.name) for path in proc.iterdir() if path.name.isdecimal()]
    return []


def _holds(folder: Path, inode: int) -> bool:
    wanted = f"socket:[{inode}]"
    with suppress(OSError):  # a process of another user
        for path in folder.iterdir():
            with suppress(OSError):
                if str(path.readlink()) == wanted:
                    return True
    return False


def _parent(process: Path) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return 0


def _command(process: Path) -> str:
    """Return a process's command line, shortened and without unprintable characters."""
    octets = b""
    with suppress(OSError):
        octets = (process / "cmdline").read_bytes()
    words = octets.replace(b"\0", b" ").decode(errors="replace").strip()
    text = "".join(char if char.isprintable() else "?" for char in words)
    return (text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}…") or "its command is not known"
