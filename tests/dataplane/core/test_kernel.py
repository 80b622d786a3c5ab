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


@pytest.fixture
def world() -> World:
    """A world with several backends."""
    return World(4)


@pytest.fixture
def program(library: CDLL, binary: Path, world: World) -> Iterator[kernel.Program]:
    """The program over that world's table."""
    loaded = kernel.Program(library, binary, compile_table(world.snapshot))
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


def test_decisions_are_pythons(library: CDLL, binary: Path) -> None:
    """Every shape of connection ID and every outcome, through BPF test-run."""
    for number in range(WORLDS):
        world = World(number)
        program = kernel.Program(library, binary, compile_table(world.snapshot))
        router = Router(world.snapshot, FlowTables(kernel.FLOWS, TIMEOUT_S))
        for datagram, four_tuple, ticks in world.traffic(DATAGRAMS // WORLDS):
            decided = program.decide(datagram, four_tuple, ticks * TICK_NS)
            assert decided == router.decide(datagram, four_tuple, ticks / 64), (number, datagram.hex(), four_tuple)
        program.close()


def test_a_table_is_swapped(program: kernel.Program, world: World) -> None:
    """Maps are written anew with another snapshot's table; what the program remembers stays."""
    router = Router(world.snapshot, FlowTables(kernel.FLOWS, TIMEOUT_S))
    for _ in range(4):
        for datagram, four_tuple, ticks in world.traffic(300):
            decided = program.decide(datagram, four_tuple, ticks * TICK_NS)
            assert decided == router.decide(datagram, four_tuple, ticks / 64)
        world.change()
        router.snapshot = world.snapshot
        program.fill(compile_table(world.snapshot))
