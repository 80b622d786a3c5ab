"""Messages to the service manager: one datagram each, to the Unix socket that NOTIFY_SOCKET names.

Without a manager, or if it does not receive, messages have no effect: the daemon does not depend on it.

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
"""The longest wait while the manager's queue is full; then the message is dropped."""
_US: Final = 1_000_000


class Notifier:
    """The connection to the manager that has started this process, if any."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Remove the manager's variables from environ, so that no child sends messages for this process."""
        self._name = environ.pop(_SOCKET, "")
        microseconds = environ.pop(_WATCHDOG_USEC, "")
        watched = environ.pop(_WATCHDOG_PID, "") or str(os.getpid())
        is_watched = watched == str(os.getpid()) and microseconds.isdecimal()
        self.watchdog_s: float | None = int(microseconds) / _US if is_watched and int(microseconds) else None
        """The manager expects a heartbeat once in this time; None: it expects none."""

    @property
    def environ(self) -> dict[str, str]:
        """The variables with which a new process reaches the same manager."""
        if not self._name:
            return {}
        watchdog = {_WATCHDOG_USEC: str(round(self.watchdog_s * _US))} if self.watchdog_s else {}
        return {_SOCKET: self._name, **watchdog}

    def notify(self, descriptors: Sequence[int] = (), **fields: str | int) -> None:
        """Send one message. fields: such as READY=1. A line break in a value becomes a space."""
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

    def disable(self) -> None:
        """Send no more messages: another process is the daemon now."""
        self._name = ""
        self.watchdog_s = None


START_S: Final = 120.0
"""The longest time for reading the configuration, and again for the rest of a start."""
_END_S: Final = 15.0
"""The longest time of a shutdown after shutdown_delay."""


class Service:
    """The daemon's messages to its service manager; without one, they have no effect."""

    def __init__(self, notifier: Notifier) -> None:
        """Send messages through a notifier."""
        self._notifier = notifier
        self._status = ""

    @property
    def environ(self) -> dict[str, str]:
        """The variables with which a new process reaches the same manager."""
        return self._notifier.environ

    def ready(self) -> None:
        """Report that packets are forwarded, or that a reload has ended."""
        self._notifier.notify(READY=1)

    def starting(self) -> None:
        """Report the next part of the start, which extends the manager's limit: thousands of backends take longer."""
        self._notifier.notify(EXTEND_TIMEOUT_USEC=round(START_S * _US))

    def reloading(self) -> None:
        """Report that the configuration is being reloaded."""
        self._notifier.notify(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)

    def stopping(self, delay_s: float) -> None:
        """Report that the daemon ends after a delay."""
        self._notifier.notify(STOPPING=1, EXTEND_TIMEOUT_USEC=round((delay_s + _END_S) * _US))

    def status(self, text: str) -> None:
        """Report the daemon's status, if it has changed."""
        if text != self._status:
            self._notifier.notify(STATUS=text)
            self._status = text

    def store(self, descriptors: Iterable[Named]) -> None:
        """Let the manager store descriptors: the next process gets them, even if this one crashes."""
        for name, descriptor in descriptors:
            self._notifier.notify([descriptor], FDSTORE=1, FDNAME=name, FDPOLL=0)

    def remove_stored(self, names: Iterable[str]) -> None:
        """Let the manager close its stored descriptors of these names."""
        for name in sorted(names):
            self._notifier.notify(FDSTOREREMOVE=1, FDNAME=name)

    def set_main_process(self, pid: int) -> None:
        """Report that another process is the daemon now and sends the messages."""
        self._notifier.notify(MAINPID=pid)
        self._notifier.disable()

    async def watch(self, is_well: Callable[[], bool]) -> None:
        """Send heartbeats while the event loop runs and is_well() is true. Return if the manager expects none."""
        while self._notifier.watchdog_s:
            if is_well():
                self._notifier.notify(WATCHDOG=1)
            await asyncio.sleep(self._notifier.watchdog_s / 2)
