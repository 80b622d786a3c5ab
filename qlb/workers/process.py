"""The supervisor's side of a worker process. States: spare, then assigned to a slot, then ended."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from qlb.dataplane.base import Orders
from qlb.handover.processes import read_vitals
from qlb.workers import channel
from qlb.workers.channel import Applied, Assignment, Failed, Pause, Paused, Waiting

_STOP_TIMEOUT_S: Final = 5.0
_END_TIMEOUT_S: Final = 1.0
"""The time limit for the end of a process that has closed its channel."""
_KILL_TIMEOUT_S: Final = 0.5
"""The longest wait for a killed process. A process in uninterruptible sleep does not end before the sleep does."""
_STOPPED: Final = "tTXZ"
"""States of a process that would not answer an assignment: stopped, traced, or dead."""


class WorkerProcess:
    """One worker process: a spare until assign() gives it a slot."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        """Use start() instead."""
        self._process = process
        self._sock = sock
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._killed = False
        self.started_ms = monotonic_ms()

    @classmethod
    async def start(cls, plane: str) -> "WorkerProcess":
        """Start a process that imports everything for a plane and waits for its assignment."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "qlb.workers.worker"),
                    *(str(theirs.fileno()), plane, str(os.getpid())),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                )
        except BaseException:
            ours.close()  # the process, if it has started, ends then
            raise
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True unless the process is known to have ended or was killed."""
        return self._process.returncode is None and not self._killed

    @property
    def waits(self) -> bool:
        """True if a spare has imported everything: its first message has arrived."""
        with suppress(OSError):
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        return False

    @property
    def is_stopped(self) -> bool:
        """True if the process is stopped, traced or dead, so that it would not answer an assignment."""
        vitals = read_vitals(self.pid)
        return vitals is not None and vitals.state in _STOPPED

    async def assign(self, assignment: Assignment, descriptors: Sequence[int]) -> None:
        """Send the assignment. Raises OSError if the process has ended already."""
        channel.send_descriptors(self._sock, descriptors)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        self._writer.write(channel.pack(assignment))

    def order(self, orders: Orders | Pause) -> None:
        """Send new orders. A dead process is not an error here; wait() reports it."""
        self.send(channel.pack(orders))

    def send(self, frame: bytes) -> None:
        """Send packed orders. A dead process is not an error here."""
        assert self._writer is not None, "orders go to assigned workers"
        if not self._writer.is_closing():  # uvloop raises an error here, asyncio does not
            self._writer.write(frame)

    async def receive(self) -> Applied | Paused | Failed | Waiting:
        """Wait for the next answer. Raises EOFError or OSError if the process has ended."""
        assert self._reader is not None, "answers come from assigned workers"
        message = await channel.receive(self._reader)
        assert isinstance(message, Applied | Paused | Failed | Waiting), "workers only answer"
        return message

    async def wait(self) -> int:
        """Wait until the process has ended. Return its exit code, negative for a signal."""
        return await self._process.wait()

    def kill(self) -> None:
        """Send SIGKILL and close the channel, so that receive() ends even if the process does not."""
        self._killed = True
        with suppress(ProcessLookupError):
            self._process.kill()
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._sock.close()

    async def end(self) -> int | None:
        """Wait for the end of a process whose channel is closed, and kill it after a timeout. Return its exit code.

        None if it does not end even then: it is in uninterruptible sleep, and does not run its program any more.
        """
        if not self._killed and not await self._ends_within(_END_TIMEOUT_S):
            self.kill()
        await self._ends_within(_KILL_TIMEOUT_S)
        return self._process.returncode

    async def _ends_within(self, timeout_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), timeout_s)
        return self._process.returncode is not None

    async def close(self) -> None:
        """Close the channel; the process ends then."""
        if self._writer is not None:
            self._writer.close()
            try:
                await asyncio.wait_for(self._writer.wait_closed(), _END_TIMEOUT_S)
            except TimeoutError:  # the process does not read the last frames
                self._writer.transport.abort()
            except OSError:
                pass
        self._sock.close()

    async def stop(self) -> None:
        """Close the channel, and kill the process if it does not end by itself."""
        await self.close()
        if not await self._ends_within(_STOP_TIMEOUT_S):
            self.kill()
            await self._ends_within(_KILL_TIMEOUT_S)


def monotonic_ms() -> int:
    """Return the time in the unit of heartbeat stamps: milliseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000_000
