"""A worker: one data plane, started by the supervisor as ``python -m qlb.control.processes.worker DESCRIPTOR PLANE``.

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
from contextlib import suppress

from qlb.control.processes import channel
from qlb.control.processes.channel import Applied, Assignment, Failed, Held, Hold, Waiting
from qlb.control.processes.lifeline import die_with_parent
from qlb.control.processes.loop import run_on_fast_loop
from qlb.dataplane import probe
from qlb.dataplane.base import Orders, Plane
from qlb.errors import QlbError
from qlb.routing.counters import SIZE_BYTES


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
        probe.factory(sys.argv[2])
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
                plane = probe.factory(message.plane)(listeners, message.orders, memoryview(counters))
                plane.hold(message.held)
                plane.start()
                writer.write(channel.pack(Applied(message.orders.snapshot.generation, remark)))
            elif isinstance(message, Orders) and plane is not None:
                plane.apply(message)
                writer.write(channel.pack(Applied(message.snapshot.generation)))
            elif isinstance(message, Hold) and plane is not None:
                plane.hold(message.held)
                writer.write(channel.pack(Held(message.held)))
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
