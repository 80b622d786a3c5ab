"""What a service manager is told: one datagram for each message, to the Unix socket that NOTIFY_SOCKET names.

Where no manager is, or it does not listen, telling it does nothing: the daemon does not depend on it.

Spec: sd_notify(3) of systemd.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from contextlib import suppress
from typing import Final

from qlb.handover.sockets import Named

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG_USEC: Final = "WATCHDOG_USEC"
_WATCHDOG_PID: Final = "WATCHDOG_PID"
_TIMEOUT_S: Final = 0.5
"""How long a manager may leave its queue full until a message is given up."""
_US: Final = 1_000_000


class Notifier:
    """The way to the manager that has started this process, if any."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """environ: of this process; what concerns the manager is taken out, so that no child speaks for this one."""
        self._name = environ.pop(_SOCKET, "")
        microseconds = environ.pop(_WATCHDOG_USEC, "")
        watched = environ.pop(_WATCHDOG_PID, "") or str(os.getpid())
        is_watched = watched == str(os.getpid()) and microseconds.isdecimal()
        self.watchdog_s: float | None = int(microseconds) / _US if is_watched and int(microseconds) else None
        """The manager wants a sign of life once in this time; None: it does not."""

    @property
    def environ(self) -> dict[str, str]:
        """What the process that takes this one's place needs to speak to the same manager."""
        if not self._name:
            return {}
        watchdog = {_WATCHDOG_USEC: str(round(self.watchdog_s * _US))} if self.watchdog_s else {}
        return {_SOCKET: self._name, **watchdog}

    def tell(self, descriptors: Sequence[int] = (), **fields: str | int) -> None:
        """Send one message. fields: such as READY=1, STATUS="..."; a line break in a value becomes a space."""
        if not self._name:
            return
        lines = [f"{name}={' '.join(str(value).splitlines())}" for name, value in fields.items()]
        message = "\n".join(lines).encode(errors="replace")
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.connect(f"\0{self._name[1:]}" if self._name.startswith("@") else self._name)
            if descriptors:
                socket.send_fds(sock, [message], descriptors)
            else:
                sock.send(message)

    def leave(self) -> None:
        """Tell nothing any more: another process speaks for the service."""
        self._name = ""
        self.watchdog_s = None


START_S: Final = 120.0
"""What reading the configuration may take, and what all the rest of a start may take."""
_END_S: Final = 15.0
"""What an end may take beyond shutdown_delay."""


class Service:
    """Tells a manager; where there is none, nothing happens."""

    def __init__(self, notifier: Notifier) -> None:
        """notifier: the way to the manager."""
        self._notifier = notifier
        self._status = ""

    @property
    def environ(self) -> dict[str, str]:
        """What the next process needs to speak to the same manager."""
        return self._notifier.environ

    def ready(self) -> None:
        """Packets are forwarded, or a reload is over."""
        self._notifier.tell(READY=1)

    def starting(self) -> None:
        """Another part of the start begins: thousands of backends take longer than the manager's own limit."""
        self._notifier.tell(EXTEND_TIMEOUT_USEC=round(START_S * _US))

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._notifier.tell(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)

    def stopping(self, delay_s: float) -> None:
        """The daemon ends, after a delay."""
        self._notifier.tell(STOPPING=1, EXTEND_TIMEOUT_USEC=round((delay_s + _END_S) * _US))

    def status(self, text: str) -> None:
        """Say how the daemon is, where that is news."""
        if text != self._status:
            self._notifier.tell(STATUS=text)
            self._status = text

    def keep(self, descriptors: Iterable[Named]) -> None:
        """Give the manager descriptors to keep: the next process gets them, however this one ends."""
        for name, descriptor in descriptors:
            self._notifier.tell([descriptor], FDSTORE=1, FDNAME=name, FDPOLL=0)

    def drop(self, names: Iterable[str]) -> None:
        """Have the manager let go of what it keeps under these names."""
        for name in sorted(names):
            self._notifier.tell(FDSTOREREMOVE=1, FDNAME=name)

    def hand_over(self, pid: int) -> None:
        """Another process is the daemon now, and speaks to the manager."""
        self._notifier.tell(MAINPID=pid)
        self._notifier.leave()

    async def watch(self, is_well: Callable[[], bool]) -> None:
        """Give signs of life as long as the event loop turns and all is well. Returns where none are wanted."""
        while self._notifier.watchdog_s:
            if is_well():
                self._notifier.tell(WATCHDOG=1)
            await asyncio.sleep(self._notifier.watchdog_s / 2)
