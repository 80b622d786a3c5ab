"""A worker: the process of one data plane. The supervisor starts ``python -m qlb.workers.worker DESCRIPTOR PLANE PID``.

It imports everything and then waits for its assignment, so a spare replaces a dead worker in milliseconds, with the
same sockets. It ends when the supervisor ends, because the channel is closed then. On Linux the kernel kills it too,
because a stopped worker would not notice, and its share of the packets would be lost.
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
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.workers import channel
from qlb.workers.channel import Applied, Assignment, Failed, Pause, Paused, Waiting
from qlb.workers.usage import report_usage

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> bool:
    """Ask the kernel for SIGKILL when the parent ends. Return False if the parent has ended already.

    On systems other than Linux, only check whether the parent exists.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # Python without ctypes: only the channel reports the end
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent  # the parent may have ended before prctl()


try:
    import uvloop
except ImportError:
    _new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    _new_loop = uvloop.new_event_loop

Result = TypeVar("Result")


def run_on_fast_loop(main: Coroutine[object, None, Result]) -> Result:
    """Run a coroutine on a new event loop and return its result."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)


def main() -> int:
    """Serve the supervisor at the other end of descriptor argv[1]. Returns the exit code.

    argv[2]: the plane to import in advance. argv[3]: the supervisor's process ID; an older supervisor does not pass it.
    """
    supervisor = int(sys.argv[3]) if len(sys.argv) > 3 else None
    if supervisor is not None and not die_with_parent(supervisor):
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C and systemd signal the whole group; the supervisor decides
    sock = socket.socket(fileno=int(sys.argv[1]))
    with suppress(KeyError, ImportError):  # the assignment will report the error
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
    usage = asyncio.create_task(report_usage(Counters(memoryview(counters))))
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
        usage.cancel()
        if plane is not None:
            plane.stop()
        writer.close()


def _pin(cpu: int | None) -> str:
    """Run on one core from now on. Return a remark if that fails: the worker forwards anyway."""
    if cpu is None:
        return ""
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:  # the core was removed after the daemon started
        return f"it cannot run on core {cpu} alone: {error.strerror}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
