"""The daemon as a service manager sees it: whether it is ready, how it is, and the sockets that it keeps for the next.

Spec: sd_notify(3), sd_pid_notify_with_fds(3) of systemd.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from qlb.control.succession.inherit import Named
from qlb.control.succession.notify import Notifier

_US: Final = 1_000_000
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
