"""A worker: one data plane, started by the supervisor as ``python -m qlb.workers.worker DESCRIPTOR PLANE``.

It waits, with everything imported, until it is told what to be; so a spare takes a dead worker's place in
milliseconds, on the same sockets. It ends when the supervisor does: the channel's end is the sign, and on Linux the
kernel kills it, so that a stopped worker does not keep its share of the packets.
"""

import asyncio
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Final, TypeVar

from qlb.dataplane import planes
from qlb.dataplane.base import Orders, Plane
from qlb.errors import QlbError
from qlb.routing.counters import SIZE_BYTES
from qlb.workers import channel
from qlb.workers.channel import Applied, Assignment, Failed, Pause, Paused, Waiting

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> bool:
    """Ask for SIGKILL at the parent's end. Return False if the parent has ended already.

    On systems other than Linux this only looks whether the parent is there.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # Python without ctypes: the channel's end must do
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent  # it may have ended before the kernel was asked


try:
    import uvloop
except ImportError:
    _new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    _new_loop = uvloop.new_event_loop

Result = TypeVar("Result")


def run_on_fast_loop(main: Coroutine[object, None, Result]) -> Result:
    """Run a coroutine to its end on a new loop and return what it returns."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)


def main() -> int:
    """Serve the supervisor at the other end of descriptor argv[1]. Returns the exit code.

    argv[2]: the plane that it will be told to run, imported ahead. argv[3]: the supervisor's process ID; an older
    supervisor does not pass it.
    """
    supervisor = int(sys.argv[3]) if len(sys.argv) > 3 else None
    if supervisor is not None and not die_with_parent(supervisor):
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C and systemd reach the whole group; the supervisor decides
    sock = socket.socket(fileno=int(sys.argv[1]))
    with suppress(KeyError, ImportError):  # the assignment that names it will tell
        planes.factory(sys.argv[2])
    try:
        if supervisor is not None:
            sock.sendall(channel.pack(Waiting()))
        *listeners, memory = channel.receive_descriptors(sock)
    except (EOFError, ConnectionError):
        return 0
    sock.setblocking(False)
    return run_on_fast_loop(_serve(sock, listeners, memory))


async def _serve(sock: socket.socket, listeners: list[int], memory: int) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    counters = mmap.mmap(memory, SIZE_BYTES)
    os.close(memory)
    plane: Plane | None = None
    try:
        while True:
            message = await channel.receive(reader)
            if isinstance(message, Assignment):
                remark = _pin(message.cpu)
                plane = planes.factory(message.plane)(listeners, message.orders, memoryview(counters))
                (plane.pause if message.paused else plane.resume)()
                plane.start()
                writer.write(channel.pack(Applied(message.orders.snapshot.generation, remark)))
            elif isinstance(message, Orders) and plane is not None:
                plane.apply(message)
                writer.write(channel.pack(Applied(message.snapshot.generation)))
            elif isinstance(message, Pause) and plane is not None:
                (plane.pause if message.paused else plane.resume)()
                writer.write(channel.pack(Paused(message.paused)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0
    except (QlbError, OSError) as error:
        writer.write(channel.pack(Failed(str(error))))
        return 1
    finally:
        if plane is not None:
            plane.stop()
        writer.close()


def _pin(cpu: int | None) -> str:
    """Run on one core from now on. Returns a remark where that cannot be: it forwards all the same."""
    if cpu is None:
        return ""
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:  # the core was taken away since the daemon began
        return f"it could not be pinned to core {cpu}: {error.strerror}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
