"""The handover protocol between the old process and the new process, during which one of them always serves.

The old process starts the new one, sends it every descriptor, and continues to serve. The new process prepares
everything without reading packets, and sends "ready". Then the old process stops reading and sends "go", and the new
one reads. It sends "forwards" when it forwards; until then, the old process can resume. If either of them dies, the
other serves.

The two may be of different releases, so the protocol must stay compatible. Each line is a word and its arguments.
"""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from qlb.errors import QlbError
from qlb.handover.memory import Memory
from qlb.handover.processes import Starvation
from qlb.handover.sockets import Inherited, Named, from_manager
from qlb.handover.systemd import Notifier

_VARIABLE: Final = "QLB_HANDOVER"
_READY: Final = "ready"
_GO: Final = "go"
_FORWARDS: Final = "forwards"
_FAILED: Final = "failed"
_MAX_LINE_BYTES: Final = 4096
_DESCRIPTORS_AT_ONCE: Final = 100
"""Linux allows 253 in one message."""
_NAMES_BYTES: Final = _DESCRIPTORS_AT_ONCE * 256
_LAST_LINES: Final = 5
_END_TIMEOUT_S: Final = 5.0
_KILL_TIMEOUT_S: Final = 1.0
_LOOK_S: Final = 0.1
_STANDARD_ERROR: Final = 2


class NewProcess:
    """The old process's side: start the new process, send it descriptors, and wait for its answers."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        """Use start() instead."""
        self._process = process
        self._sock = sock
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._relay = threading.Thread(target=self._relay_errors, name="errors of the new process", daemon=True)
        self._relay.start()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def start(
        cls, command: Sequence[str], environ: Mapping[str, str], descriptors: Sequence[Named]
    ) -> "NewProcess":
        """Start a command and send it copies of descriptors. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(True)
            errors = os.dup(_STANDARD_ERROR)
            try:
                process = _spawn(command, environ, theirs.fileno(), errors)
            except OSError:
                ours.close()
                raise
            finally:
                os.close(errors)
        new_process = cls(process, ours)
        try:
            await new_process._send(descriptors)
        except BaseException:
            await new_process.kill()
            raise
        return new_process

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the new process is ready for go(). Raises QlbError with the reason if it fails or is too slow."""
        await self._expect(_READY, timeout_s)

    async def go(self, timeout_s: float, limit_s: float) -> bool:
        """Let the new process read packets; this process must not. Return whether it took every service socket.

        timeout_s: the longest wait, because no process reads during it. limit_s: the longest wait if the new process
        only waits for a processor: on such a machine this process would wait too. Raises QlbError with the reason if
        the new process does not forward.
        """
        assert self._writer is not None, "it was started"
        self._writer.write(f"{_GO}\n".encode())
        answer = asyncio.create_task(self._expect(_FORWARDS, limit_s))
        starved = Starvation(self.pid)
        await asyncio.wait([answer], timeout=timeout_s)
        for _ in range(round((limit_s - timeout_s) / _LOOK_S)):
            if answer.done() or not starved.continues():
                break
            await asyncio.wait([answer], timeout=_LOOK_S)
        if answer.done():
            return answer.result() == "all"
        answer.cancel()
        raise QlbError(f"the new process has not answered within {timeout_s:g} s: it hangs{self._last_output()}")

    async def kill(self) -> None:
        """Kill the new process and wait until it has ended. Its workers end by themselves."""
        with suppress(ProcessLookupError):
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # in uninterruptible sleep: it does not run its program any more
            await asyncio.to_thread(self._process.wait, _KILL_TIMEOUT_S)
        self.release()

    def release(self) -> None:
        """Close the connection; the new process continues alone."""
        if self._writer is not None:
            self._writer.close()
        self._sock.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # it is still alive; this avoids a warning of subprocess about that

    async def _send(self, descriptors: Sequence[Named]) -> None:
        """Send the descriptors, many in one message with a line for each name, and then an empty line.

        All of them fit into the socket's queue.
        """
        self._sock.settimeout(_END_TIMEOUT_S)
        with suppress(OSError):  # it has ended: wait_ready() reports how
            for start in range(0, len(descriptors), _DESCRIPTORS_AT_ONCE):
                some = descriptors[start : start + _DESCRIPTORS_AT_ONCE]
                names = "".join(f"{named.name}\n" for named in some)
                socket.send_fds(self._sock, [names.encode()], [named.descriptor for named in some])
            self._sock.sendall(b"\n")
        self._sock.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)

    async def _expect(self, word: str, timeout_s: float) -> str:
        assert self._reader is not None, "it was started"
        try:
            line = (await asyncio.wait_for(self._reader.readline(), timeout_s)).decode().strip()
        except TimeoutError:
            raise QlbError(f"the new process has not answered within {timeout_s:g} s{self._last_output()}") from None
        except (OSError, ValueError):  # it has ended without reading everything, or it is not a daemon
            line = ""
        found, _, rest = line.partition(" ")
        if found == word:
            return rest
        if found == _FAILED:
            raise QlbError(f"the new process cannot take over: {rest}")
        raise QlbError(f"the new process has ended{await self._exit_status()}{self._last_output()}")

    async def _exit_status(self) -> str:
        try:
            code = await asyncio.to_thread(self._process.wait, _END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return ""
        await asyncio.to_thread(self._relay.join, _END_TIMEOUT_S)
        return f" with exit code {code}" if code >= 0 else f" by signal {-code}"

    def _last_output(self) -> str:
        return f": {' | '.join(self._last)}" if self._last else ""

    def _relay_errors(self) -> None:
        """Copy the new process's stderr to this one's until it has its own, and store the last lines."""
        assert self._process.stderr is not None, "it was started with a pipe"
        with self._process.stderr as lines:
            for line in lines:
                self._last.append(line.decode(errors="replace").rstrip()[:_MAX_LINE_BYTES])
                with suppress(OSError):
                    os.write(_STANDARD_ERROR, line)


class OldProcess:
    """The new process's side: receive descriptors and answer. If the old process dies, this one continues alone."""

    def __init__(self, sock: socket.socket, errors: int) -> None:
        """sock: to the old process. errors: descriptor of its log; this process uses it after use_its_log()."""
        self._sock = sock
        self._errors = errors
        self.descriptors = self._receive_descriptors()

    @classmethod
    def find(cls, environ: MutableMapping[str, str]) -> "OldProcess | None":
        """Return the old process if it started this one for a handover; else None.

        environ: of this process; the variable of the handover is removed.
        """
        channel, _, errors = environ.pop(_VARIABLE, "").partition(":")
        if not (channel.isdecimal() and errors.isdecimal()):
            return None
        for descriptor in (int(channel), int(errors)):
            os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=int(channel)), int(errors))

    def use_its_log(self) -> None:
        """Write the log to the old process's log, no longer through the old process, which will end."""
        os.dup2(self._errors, _STANDARD_ERROR)
        os.close(self._errors)

    async def wait_for_go(self) -> None:
        """Report that this process is ready. Wait for "go", or for the end of the old process, which means the same."""
        self._send(_READY)
        self._sock.setblocking(False)
        with suppress(OSError):
            await self._receive()

    async def report_forwarding(self, *, all_taken: bool) -> None:
        """Report that this process forwards, and wait until the old process releases it.

        all_taken: whether this process reads every service socket.
        """
        self._send(f"{_FORWARDS} {'all' if all_taken else 'some'}")
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._receive(), _END_TIMEOUT_S)
        self._sock.close()

    def report_failure(self, reason: str) -> None:
        """Report the reason why this process cannot take over."""
        self._send(f"{_FAILED} {' '.join(reason.split())[: _MAX_LINE_BYTES // 2]}")
        self._sock.close()

    async def _receive(self) -> None:
        await asyncio.get_running_loop().sock_recv(self._sock, _MAX_LINE_BYTES)

    def _receive_descriptors(self) -> list[Named]:
        found: list[Named] = []
        with suppress(OSError):
            while True:
                octets, descriptors, _, _ = socket.recv_fds(self._sock, _NAMES_BYTES, _DESCRIPTORS_AT_ONCE)
                if not octets or not descriptors:
                    break
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                found += map(Named, octets.decode(errors="replace").splitlines(), descriptors)
        return found

    def _send(self, line: str) -> None:
        with suppress(OSError):  # the old process has ended
            self._sock.send(f"{line}\n".encode())


def _spawn(command: Sequence[str], environ: Mapping[str, str], channel: int, errors: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (this process's own command line)
        command,
        env={**environ, _VARIABLE: f"{channel}:{errors}"},
        pass_fds=(channel, errors),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def own_command() -> Sequence[str]:
    """Return the command line that started this process, to start the same again."""
    return (sys.executable, *sys.orig_argv[1:])


@dataclass(frozen=True, slots=True)
class Origin:
    """The inheritance of this process. All fields are empty after an ordinary start.

    old_process: the process that hands over to this one. command: starts a new process; empty: no handover is possible.
    """

    inherited: Inherited = field(default_factory=Inherited)
    memory: Memory = field(default_factory=Memory)
    notifier: Notifier = field(default_factory=lambda: Notifier({}))
    old_process: OldProcess | None = None
    command: Sequence[str] = ()

    @classmethod
    def of_process(cls, environ: MutableMapping[str, str], *, can_be_followed: bool = True) -> "Origin":
        """Return what this process inherited. environ: of this process; variables for this process alone are removed.

        can_be_followed: False if a handover is impossible, because something else depends on this process.
        """
        notifier = Notifier(environ)
        old_process = OldProcess.find(environ)
        inherited = Inherited([*(old_process.descriptors if old_process else ()), *from_manager(environ)])
        command = own_command() if can_be_followed else ()
        return cls(inherited, Memory(inherited.state), notifier, old_process, command)
