"""The BPF object: the verifier's limits, and the kernels that can load it."""

import re
import struct
from typing import Final

import pytest

from qlb.dataplane.xdp import libbpf
from qlb.dataplane.xdp import program as xdp
from qlb.dataplane.xdp.bpf_object import BpfObject
from qlb.dataplane.xdp.layout import MODES, SETTINGS

pytestmark = pytest.mark.toolchain

INSTRUCTIONS: Final = 200_000
"""Instructions that the verifier may process; its own limit is 1,000,000."""
STACK_BYTES: Final = 512
AES_STACK_BYTES: Final = 64
STACK_STEP: Final = 32
"""Kernels before 6.9 round every stack frame up to a multiple of this."""
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
"""Number: name, and the first kernel that has it. 5.15 is the oldest kernel that qlb supports."""


@pytest.fixture(scope="module")
def octets() -> bytes:
    """Return the committed object."""
    return xdp.PROGRAM.read_bytes()


@pytest.mark.parametrize("mode", range(len(MODES)), ids=MODES)
def test_the_verifier(octets: bytes, mode: int) -> None:
    """The verifier accepts the program in every mode, and its limits are not exhausted, also not on older kernels."""
    if lack := libbpf.what_lacks():
        pytest.skip(lack)
    with BpfObject(octets, log=True) as loaded:
        constants = SETTINGS.pack(
            mode=mode, gue_port=6080, service_slots=1, hop_ticks=1, service_seed=1, service_ports=1, redirect_only=0
        )
        loaded.set_constants(".rodata.settings", constants)
        loaded.load()
        for name in (xdp.FORWARD, xdp.EXPLAIN):
            log = loaded.verifier_log(name)
            walked = re.search(r"processed (\d+) insns", log)
            stack = re.search(r"stack depth ([\d+]+)", log)
            assert walked, log
            assert stack, log
            assert int(walked[1]) < INSTRUCTIONS
            main, *called = (-(-int(depth) // STACK_STEP) * STACK_STEP for depth in stack[1].split("+"))
            decision, *others = sorted(called, reverse=True)  # the deepest; it calls AES, which calls nothing
            assert main + decision + AES_STACK_BYTES <= STACK_BYTES, log
            assert AES_STACK_BYTES in others, log


def test_it_uses_only_helpers_of_kernel_5_15(octets: bytes) -> None:
    """Every call instruction in the object calls one of its own functions or one of these helpers."""
    assert set(_called(octets)) == set(HELPERS)


def _called(octets: bytes) -> list[int]:
    """Return the numbers of the helpers that an ELF file's executable sections call. Spec: RFC 9669, section 4.3."""
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
