"""The object itself: what the verifier says of it, and which kernels can load it."""

import re
import struct
from typing import Final

import pytest

from qlb.dataplane.xdp import libbpf, plane
from qlb.dataplane.xdp.layout import MODES, SETTINGS
from qlb.dataplane.xdp.libbpf import BpfObject

pytestmark = pytest.mark.toolchain

INSTRUCTIONS: Final = 200_000
"""What the verifier may have to walk through; it stops at 1,000,000."""
STACK_BYTES: Final = 512
AES_STACK_BYTES: Final = 64
STACK_STEP: Final = 32
"""Kernels before 6.9 round every frame up to this."""
HELPERS: Final = {
    1: "map_lookup_elem, 3.19",
    2: "map_update_elem, 3.19",
    23: "redirect, 4.4",
    28: "csum_diff, 4.6",
    44: "xdp_adjust_head, 4.10",
    65: "xdp_adjust_tail, 4.18",
    69: "fib_lookup, 4.18",
    118: "jiffies64, 5.6",
}
"""Number: name, and the kernel that has had it first. 5.15 is the oldest that qlb is for."""


@pytest.fixture(scope="module")
def octets() -> bytes:
    """The committed object."""
    return plane.PROGRAM.read_bytes()


@pytest.mark.parametrize("mode", range(len(MODES)), ids=MODES)
def test_the_verifier(octets: bytes, mode: int) -> None:
    """It accepts the program in every mode, with instructions and stack to spare, as older kernels count it too."""
    if lack := libbpf.what_lacks():
        pytest.skip(lack)
    with BpfObject(octets, log=True) as loaded:
        constants = SETTINGS.pack(
            mode=mode, gue_port=6080, service_slots=1, hop_ticks=1, service_seed=1, service_ports=1, redirect_only=0
        )
        loaded.set_constants(".rodata.settings", constants)
        loaded.load()
        for name in (plane.FORWARD, plane.EXPLAIN):
            said = loaded.verifier_log(name)
            walked = re.search(r"processed (\d+) insns", said)
            stack = re.search(r"stack depth ([\d+]+)", said)
            assert walked, said
            assert stack, said
            assert int(walked[1]) < INSTRUCTIONS
            main, *called = (-(-int(depth) // STACK_STEP) * STACK_STEP for depth in stack[1].split("+"))
            decision, *others = sorted(called, reverse=True)  # the deepest; it calls AES, which calls nothing
            assert main + decision + AES_STACK_BYTES <= STACK_BYTES, said
            assert AES_STACK_BYTES in others, said


def test_it_asks_for_helpers_that_5_15_has(octets: bytes) -> None:
    """Every call instruction in the object is of a function of its own, or of one of these helpers."""
    assert set(_called(octets)) == set(HELPERS)


def _called(octets: bytes) -> list[int]:
    """Read the numbers of helpers from an ELF file's executable sections. Spec: RFC 9669, section 4.3."""
    start, entry_size, count = (struct.unpack_from("<Q", octets, 40)[0], *struct.unpack_from("<HH", octets, 58))
    found = []
    for number in range(count):
        _, kind, flags, _, offset, size = struct.unpack_from("<IIQQQQ", octets, start + number * entry_size)
        if kind != 1 or not flags & 4:  # PROGBITS, EXECINSTR
            continue
        for at in range(offset, offset + size, 8):
            code, registers, _, immediate = struct.unpack_from("<BBhi", octets, at)
            if code == 0x85 and registers >> 4 == 0:
                found.append(immediate)
    return found
