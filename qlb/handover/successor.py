"""From one process of the daemon to the next, without a moment in which nobody serves.

The one before starts the next, gives it every descriptor, and goes on. The next makes everything ready, but reads
nothing, and says so. Then the one before stops reading and says go, and the next reads. Until it has said that it
forwards, the one before can take all back. Whichever of them dies on the way, the other serves.

The two may be of different releases: what is said here must stay understood. Each line is a word and what follows it.
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
"""Linux takes 253 in one message."""
_NAMES_BYTES: Final = _DESCRIPTORS_AT_ONCE * 256
_LAST_LINES: Final = 5
_END_TIMEOUT_S: Final = 5.0
_KILL_TIMEOUT_S: Final = 1.0
_LOOK_S: Final = 0.1
_STANDARD_ERROR: Final = 2


class Successor:
    """The next process, as the one before it sees it."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        """Use start() instead."""
        self._process = process
        self._sock = sock
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._relay = threading.Thread(target=self._relay_errors, name="errors of the next process", daemon=True)
        self._relay.start()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def start(
        cls, command: Sequence[str], environ: Mapping[str, str], descriptors: Sequence[Named]
    ) -> "Successor":
        """Start a command and give it descriptors, which stay this process's, too. Raises OSError."""
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
        successor = cls(process, ours)
        try:
            await successor._give(descriptors)
        except BaseException:
            await successor.kill()
            raise
        return successor

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until it only waits for go(). Raises QlbError, saying why, where it does not come to that."""
        await self._expect(_READY, timeout_s)

    async def go(self, timeout_s: float, limit_s: float) -> bool:
        """Have it read; this process must not. Returns whether it has taken every service socket.

        timeout_s: nobody reads meanwhile, so that is all it gets. limit_s: what it gets if it waits for a processor:
        on such a machine this process would wait as well. Raises QlbError, saying why, where it does not forward.
        """
        assert self._writer is not None, "it was started"
        self._writer.write(f"{_GO}\n".encode())
        answer = asyncio.create_task(self._expect(_FORWARDS, limit_s))
        starved = Starvation(self.pid)
        await asyncio.wait([answer], timeout=timeout_s)
        for _ in range(round((limit_s - timeout_s) / _LOOK_S)):
            if answer.done() or not starved.goes_on():
                break
            await asyncio.wait([answer], timeout=_LOOK_S)
        if answer.done():
            return answer.result() == "all"
        answer.cancel()
        raise QlbError(f"the next process has not come so far within {timeout_s:g} s: it hangs{self._said()}")

    async def kill(self) -> None:
        """End it at once, and wait until it has ended; its workers end by themselves."""
        with suppress(ProcessLookupError):
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # in uninterruptible sleep: it runs no more of its program
            await asyncio.to_thread(self._process.wait, _KILL_TIMEOUT_S)
        self.release()

    def release(self) -> None:
        """Let it go its own way."""
        if self._writer is not None:
            self._writer.close()
        self._sock.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # it lives on; that it is not waited for is no mistake

    async def _give(self, descriptors: Sequence[Named]) -> None:
        """So many in one message, each named by a line of it; then an empty line. All fit into the socket's queue."""
        self._sock.settimeout(_END_TIMEOUT_S)
        with suppress(OSError):  # it has ended: who waits for it is told how
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
            raise QlbError(f"the next process has not come so far within {timeout_s:g} s{self._said()}") from None
        except (OSError, ValueError):  # it has ended without reading all, or it is no daemon
            line = ""
        found, _, rest = line.partition(" ")
        if found == word:
            return rest
        if found == _FAILED:
            raise QlbError(f"the next process cannot take over: {rest}")
        raise QlbError(f"the next process has ended{await self._how()}{self._said()}")

    async def _how(self) -> str:
        try:
            code = await asyncio.to_thread(self._process.wait, _END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return ""
        await asyncio.to_thread(self._relay.join, _END_TIMEOUT_S)
        return f" with exit code {code}" if code >= 0 else f" by signal {-code}"

    def _said(self) -> str:
        return f": {' | '.join(self._last)}" if self._last else ""

    def _relay_errors(self) -> None:
        """Pass on what it writes to stderr until it has a stderr of its own, and keep the last lines."""
        assert self._process.stderr is not None, "it was started with a pipe"
        with self._process.stderr as lines:
            for line in lines:
                self._last.append(line.decode(errors="replace").rstrip()[:_MAX_LINE_BYTES])
                with suppress(OSError):
                    os.write(_STANDARD_ERROR, line)


class Predecessor:
    """The process before this one, as this one sees it. It may die at any time: then this one goes on alone."""

    def __init__(self, sock: socket.socket, errors: int) -> None:
        """sock: to it. errors: where it writes its log, and this process will, after begin_to_log()."""
        self._sock = sock
        self._errors = errors
        self.descriptors = self._take()

    @classmethod
    def find(cls, environ: MutableMapping[str, str]) -> "Predecessor | None":
        """Return who has started this process to take over; None where nobody has.

        environ: of this process; what concerns the hand-over is taken out.
        """
        channel, _, errors = environ.pop(_VARIABLE, "").partition(":")
        if not (channel.isdecimal() and errors.isdecimal()):
            return None
        for descriptor in (int(channel), int(errors)):
            os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=int(channel)), int(errors))

    def begin_to_log(self) -> None:
        """Write to where the one before writes, no longer to it: it will be gone."""
        os.dup2(self._errors, _STANDARD_ERROR)
        os.close(self._errors)

    async def wait_go(self) -> None:
        """Say that all is ready, and wait for go; or for the end of the one before, which is the same."""
        self._say(_READY)
        self._sock.setblocking(False)
        with suppress(OSError):
            await self._hear()

    async def let_go(self, *, all_taken: bool) -> None:
        """Say that packets are forwarded here, and wait until the one before has no say any more.

        all_taken: whether every service socket is read here.
        """
        self._say(f"{_FORWARDS} {'all' if all_taken else 'some'}")
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._hear(), _END_TIMEOUT_S)
        self._sock.close()

    def tell_failed(self, reason: str) -> None:
        """Say why this process cannot take over."""
        self._say(f"{_FAILED} {' '.join(reason.split())[: _MAX_LINE_BYTES // 2]}")
        self._sock.close()

    async def _hear(self) -> None:
        await asyncio.get_running_loop().sock_recv(self._sock, _MAX_LINE_BYTES)

    def _take(self) -> list[Named]:
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

    def _say(self, line: str) -> None:
        with suppress(OSError):  # it is gone
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
    """Return the command line that this process was started with, for another start of the same."""
    return (sys.executable, *sys.orig_argv[1:])


@dataclass(frozen=True, slots=True)
class Origin:
    """Nothing was passed, unless something was.

    predecessor: whoever hands over to this process now. command: how to start a next process; empty: it cannot be.
    """

    inherited: Inherited = field(default_factory=Inherited)
    memory: Memory = field(default_factory=Memory)
    notifier: Notifier = field(default_factory=lambda: Notifier({}))
    predecessor: Predecessor | None = None
    command: Sequence[str] = ()

    @classmethod
    def of_process(cls, environ: MutableMapping[str, str], *, can_be_followed: bool = True) -> "Origin":
        """Find out. environ: of this process; what was for it alone is taken out.

        can_be_followed: False where something else hangs on the life of this process.
        """
        notifier = Notifier(environ)
        predecessor = Predecessor.find(environ)
        inherited = Inherited([*(predecessor.descriptors if predecessor else ()), *from_manager(environ)])
        command = own_command() if can_be_followed else ()
        return cls(inherited, Memory(inherited.state), notifier, predecessor, command)
