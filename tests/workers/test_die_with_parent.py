"""Workers and spares die with their supervisor, whatever their state."""

import os
import select
import signal
import subprocess
import sys

import pytest

from qlb.workers.worker import die_with_parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills at the parent's end")

SUPERVISOR = """
import asyncio
from qlb.workers.slots import Slot
from qlb.workers.pool import Workers
from qlb.dataplane.sockets import open_listener
from qlb.routing.backends import Endpoint
from lab.dataplane.network import backend, orders

async def main():
    wanted = orders([backend(0, Endpoint("127.0.0.1", 9))])
    workers = Workers([Slot(0, [open_listener(Endpoint("127.0.0.1", 0))])], "asyncio", lambda: wanted)
    await workers.start()
    while not workers.spares[0].waits:
        await asyncio.sleep(0.01)
    print(workers.slots[0].process.pid, workers.spares[0].pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("state", [signal.SIGCONT, signal.SIGSTOP])
def test_workers_and_spares_die_with_their_supervisor(state: signal.Signals) -> None:
    """If the supervisor is killed (SIGKILL), the worker and the spare die too, even if they were stopped."""
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        descriptors = [os.pidfd_open(pid) for pid in pids]
        try:
            for pid in pids:
                os.kill(pid, state)
            supervisor.kill()
            for descriptor in descriptors:
                assert select.select([descriptor], [], [], 60)[0], "the process is still alive"
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    assert len(pids) == 2


def test_a_supervisor_that_is_gone_already() -> None:
    """A worker whose supervisor is already gone sees it by its parent's process ID, and ends at once."""
    code = "import sys; from qlb.workers.worker import die_with_parent; sys.exit(die_with_parent(1 << 30))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import os, sys; from qlb.workers.worker import die_with_parent as d; sys.exit(d(os.getppid()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1


def test_without_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ctypes, the kernel is not asked for a signal, but the parent's process ID is still checked."""
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert die_with_parent(os.getppid())
    assert not die_with_parent(1 << 30)
