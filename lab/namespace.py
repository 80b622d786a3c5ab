"""Network namespaces for tests: each has its own loopback and ports, and ends with its last process."""

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final

import pytest

_CLONE_NEWNET: Final = 0x40000000


def begin_network() -> None:
    """Move this thread into a new, empty network. Raise OSError without permission."""
    _call("unshare", _CLONE_NEWNET)


@contextmanager
def inside(network: int) -> Iterator[None]:
    """Move this thread into a network until the end of the block. network: a descriptor of it."""
    with open_network() as before:
        _call("setns", network, _CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", before.fileno(), _CLONE_NEWNET)


@contextmanager
def network_of_its_own() -> Iterator[None]:
    """Move this thread into a new network until the end of the block. Raise OSError without permission."""
    with open_network() as before:
        begin_network()
        try:
            yield
        finally:
            _call("setns", before.fileno(), _CLONE_NEWNET)


def open_network() -> BufferedReader:
    """Open the network of this thread; it exists at least as long as the returned file is open."""
    return Path("/proc/thread-self/ns/net").open("rb")


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def in_a_network_of_its_own(
    work: Callable[[], Coroutine[object, None, None]],
    run_loop: Callable[[Coroutine[object, None, None]], None] = asyncio.run,
) -> None:
    """Run ``work`` on a thread whose sockets are in a new network namespace, or skip the test.

    run_loop: runs the coroutine on an event loop.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            begin_network()
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            run_loop(work())
        except BaseException as error:
            failures.append(error)

    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
