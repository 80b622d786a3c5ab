"""The C parser returns the same as qlb/wire/invariants.py."""

import random
from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

from lab.dataplane.worlds import long_header
from qlb.wire.invariants import parse


def test_every_prefix(core: ModuleType) -> None:
    """The parsers agree on long headers with IDs of many lengths and on a short one, cut after every octet."""
    dice = random.Random(8999)
    for dcid_len, scid_len in ((0, 0), (0, 8), (8, 0), (20, 20), (255, 255), (1, 254)):
        whole = long_header(dice.randbytes(dcid_len), dice.randbytes(scid_len), dice.getrandbits(32)) + b"payload"
        for size in range(len(whole) + 1):
            assert core.parse(whole[:size]) == parse(whole[:size])
    short = b"\x40" + dice.randbytes(300)
    for size in range(len(short) + 1):
        assert core.parse(short[:size]) == parse(short[:size])


def test_random_octets(core: ModuleType) -> None:
    """The parsers agree on seeded random octets, which are short so that inner lengths reach beyond the end."""
    dice = random.Random(8999)
    for _ in range(20_000):
        datagram = dice.randbytes(dice.randrange(40))
        assert core.parse(datagram) == parse(datagram)


@given(datagram=st.binary(max_size=600))
def test_any_octets(core: ModuleType, datagram: bytes) -> None:
    """The parsers agree on any octets that hypothesis generates."""
    assert core.parse(datagram) == parse(datagram)
