"""A network namespace for one test: its own loopback, its own ports, gone with the thread that made it."""

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine
from typing import Final

import pytest

CLONE_NEWNET: Final = 0x40000000


def in_a_network_of_its_own(work: Callable[[], Coroutine[object, None, None]]) -> None:
    """Run something on a thread whose sockets are in a new network namespace, or skip the test."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            asyncio.run(work())
        except BaseException as error:
            failures.append(error)

    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
