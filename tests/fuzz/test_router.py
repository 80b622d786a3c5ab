"""The fuzz target without a fuzzer: hypothesis and seeded random plans feed it in every test run."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.fuzz.target import Target

TARGET = Target()
PACKETS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=25)


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_any_plan(plan: bytes) -> None:
    """Random octets break no invariant of the packet path."""
    assert TARGET.feed(plan) <= 60


@given(PACKETS)
@settings(max_examples=150, deadline=None)
def test_any_traffic(packets: list[tuple[int, bytes]]) -> None:
    """Plans made of whole packets reach more of the code."""
    plan = b"".join(bytes([control, len(octets)]) + octets for control, octets in packets)
    assert TARGET.feed(plan) == len(packets)


@pytest.mark.parametrize("seed", range(20))
def test_long_runs(seed: int) -> None:
    """Many packets for one pair of tables, the same on every machine, break no invariant."""
    dice = random.Random(seed)
    plan = b"".join(bytes([dice.randrange(256), size := dice.randrange(40)]) + dice.randbytes(size) for _ in range(60))
    assert TARGET.feed(plan) == 60
