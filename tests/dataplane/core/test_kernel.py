"""The same lines in the kernel: its verifier accepts them, and they decide what Python decides."""

import re
import shutil
from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path

import pytest

from qlb.dataplane.table import compile_table
from qlb.routing.flows import FlowTables
from qlb.routing.router import Router
from tests.dataplane.core import kernel
from tests.dataplane.core.worlds import TICK_NS, WORLDS, World

pytestmark = pytest.mark.toolchain

DATAGRAMS = 20_000
TIMEOUT_S = 30
"""As xdp_core.c has it."""
AGE_TICKS = 1_000_000_000
"""Time between worlds: what the kernel's flow tables hold of the one before has expired."""
INSTRUCTIONS = 250_000
"""What the verifier may have to walk through; it stops at 1,000,000, and the XDP plane needs its share."""
STACK_BYTES = 400
"""Of 512, in the deepest chain of calls."""


@pytest.fixture(scope="module")
def library() -> CDLL:
    """Libbpf, where this process may load programs."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    try:
        return kernel.libbpf()
    except kernel.Unavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def binary(library: CDLL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled test program; where there is somebody to load it."""
    assert library
    return kernel.compile_program(tmp_path_factory.mktemp("bpf"))


@pytest.fixture(scope="module")
def program(library: CDLL, binary: Path) -> Iterator[kernel.Program]:
    """The program, loaded once."""
    loaded = kernel.Program(library, binary)
    yield loaded
    loaded.close()


def test_the_verifier(program: kernel.Program) -> None:
    """It accepts parse, decode and route in one program, with instructions and stack to spare."""
    walked = re.search(r"processed (\d+) insns", program.verifier)
    stack = re.search(r"stack depth ([\d+]+)", program.verifier)
    assert walked, program.verifier
    assert stack, program.verifier
    assert int(walked[1]) < INSTRUCTIONS
    main, *called = map(int, stack[1].split("+"))
    assert main + max(called) < STACK_BYTES


def test_decisions_are_pythons(program: kernel.Program) -> None:
    """Every shape of connection ID, through BPF test-run; each world changes once under traffic."""
    for number in range(WORLDS):
        world = World(number)
        world.ticks = number * AGE_TICKS
        router = Router(world.snapshot, FlowTables(kernel.FLOWS, TIMEOUT_S))
        for _ in range(2):
            router.snapshot = world.snapshot
            program.fill(compile_table(world.snapshot))
            for datagram, four_tuple, ticks in world.traffic(DATAGRAMS // WORLDS // 2):
                decided = program.decide(datagram, four_tuple, ticks * TICK_NS)
                assert decided == router.decide(datagram, four_tuple, ticks / 64), (number, datagram.hex(), four_tuple)
            world.change()
