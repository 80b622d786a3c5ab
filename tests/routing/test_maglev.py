"""The fallback: equal on every balancer, proportional to weights, and stable when backends change."""

import os
import subprocess
import sys
from array import array
from collections import Counter

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.addresses import FourTuple
from qlb.routing import maglev
from qlb.routing.maglev import DEFAULT_KEY, FourTupleHash, Member, Ring, assign, build_ring

KEY = bytes(range(16))


def _members(count: int) -> list[Member]:
    return [Member(f"agent-{n}", 1) for n in range(count)]


def _owners(ring: Ring) -> list[str]:
    return [ring.members[position].name for position in ring.slots]


@pytest.fixture
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings with an eighth of the slots, for properties that do not depend on the size."""
    monkeypatch.setattr(maglev, "RING_SIZES", (8_209,))


def test_every_slot_has_an_owner_and_shares_are_even() -> None:
    """With equal weights, shares differ by at most one slot."""
    counts = Counter(build_ring(_members(7), DEFAULT_KEY).slots)
    assert sum(counts.values()) == 65_537
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1] * 3, [2, 1, 1]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 6]),
        ([100] * 5, [100] * 4 + [0]),
        pytest.param([1] * 3, [50, 1, 1], marks=pytest.mark.slow),
        pytest.param([5] * 10, [6] + [5] * 9, marks=pytest.mark.slow),
        pytest.param([1, 2, 3, 4, 5], [2, 2, 3, 4, 5], marks=pytest.mark.slow),
        pytest.param([100] * 5, [50] + [100] * 4, marks=pytest.mark.slow),
        pytest.param([7, 3, 5] * 4, [7, 3, 5] * 3 + [7, 3, 9], marks=pytest.mark.slow),
    ],
)
def test_a_weight_moves_little_more_than_it_must(before: list[int], after: list[int]) -> None:
    """A new weight moves the slots that it must, and about one in two hundred of the others."""

    def owners(weights: list[int]) -> list[str]:
        return _owners(
            build_ring([Member(f"n{at}", weight) for at, weight in enumerate(weights) if weight], DEFAULT_KEY)
        )

    moved = sum(was != now for was, now in zip(owners(before), owners(after), strict=True)) / 65_537
    needed = sum(max(new / sum(after) - old / sum(before), 0) for old, new in zip(before, after, strict=True))
    assert needed * 0.99 <= moved <= needed * 1.02 + 0.005


def test_shares_follow_weights() -> None:
    """Shares follow weights to within one percent of the whole."""
    weights = {"a": 1, "b": 2, "c": 5, "d": 65_535}
    counts = Counter(_owners(build_ring([Member(*item) for item in weights.items()], DEFAULT_KEY)))
    total = sum(weights.values())
    for name, weight in weights.items():
        assert abs(counts[name] / 65_537 - weight / total) < 0.01


@pytest.mark.usefixtures("small_ring")
def test_order_of_the_configuration_does_not_matter() -> None:
    """Balancers whose files list the backends in another order agree."""
    assert build_ring(_members(5), KEY) == build_ring(_members(5)[::-1], KEY)


@pytest.mark.usefixtures("small_ring")
def test_the_key_decides() -> None:
    """Another key gives another ring."""
    assert _owners(build_ring(_members(5), KEY)) != _owners(build_ring(_members(5), DEFAULT_KEY))


def test_every_process_fills_the_same_ring() -> None:
    """The ring does not depend on Python's hash seed."""
    code = (
        "import hashlib\nfrom qlb.routing.maglev import *\n"
        "ring = build_ring([Member(f'agent-{n}', n + 1) for n in range(9)], DEFAULT_KEY)\n"
        "print(hashlib.sha256(ring.slots.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("count", [3, 10, 100])
def test_one_that_leaves_moves_its_share(count: int) -> None:
    """Removing one of N backends moves 1/N of the slots, plus less than one percent."""
    before = _owners(build_ring(_members(count), DEFAULT_KEY))
    after = _owners(build_ring(_members(count)[1:], DEFAULT_KEY))
    moved = sum(a != b for a, b in zip(before, after, strict=True)) / len(before)
    assert 1 / count <= moved + 0.001
    assert moved < 1 / count + 0.01


def test_a_ring_without_members() -> None:
    """Without members there are no slots and no assignment."""
    ring = build_ring([], KEY)
    assert ring == Ring(KEY, (), array("i"))
    assert not assign(ring, [])


def test_large_pools_get_a_large_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring has the first size with enough slots for each backend, or the largest size."""
    monkeypatch.setattr(maglev, "RING_SIZES", (53, 521))
    assert len(build_ring(_members(3), KEY).slots) == 53
    assert len(build_ring(_members(4), KEY).slots) == 521
    assert len(build_ring(_members(300), KEY).slots) == 521


@pytest.mark.usefixtures("small_ring")
def test_all_take_part() -> None:
    """Each slot becomes the index of its owner."""
    ring = build_ring(_members(3), KEY)
    assert assign(ring, [10, 20, 30]) == array("i", [(10, 20, 30)[position] for position in ring.slots])


def test_one_that_is_away_lends_only_its_own_slots() -> None:
    """Only the slots of an absent backend move, to all others alike, and return to it later."""
    ring = build_ring(_members(5), KEY)
    whole, without = assign(ring, [0, 1, 2, 3, 4]), assign(ring, [0, 1, -1, 3, 4])
    lent = Counter(new for old, new in zip(whole, without, strict=True) if old == 2)
    assert all(old == new for old, new in zip(whole, without, strict=True) if old != 2)
    assert set(lent) == {0, 1, 3, 4}
    assert max(lent.values()) < 1.2 * min(lent.values())
    assert assign(ring, [0, 1, 2, 3, 4]) == whole


def test_the_last_one_takes_all() -> None:
    """A single remaining backend receives every slot, however small its share is."""
    ring = build_ring([Member("small", 1), Member("large", 1000)], KEY)
    owner = [member.name for member in ring.members].index("small")
    assert set(assign(ring, [7 if n == owner else -1 for n in range(2)])) == {7}


def _independent(four_tuple: FourTuple, *addresses: bytes) -> int:
    """Return the hash by a CBC encryptor over the whole message, built from the documented layout."""
    ports = four_tuple[1].to_bytes(2, "big") + four_tuple[3].to_bytes(2, "big")
    if len(addresses[0]) == 4:
        message = b"".join(addresses) + ports + b"\0\0\0\4"
    else:
        message = ports + bytes(11) + b"\6" + b"".join(addresses)
    encryptor = Cipher(algorithms.AES(KEY), modes.CBC(bytes(16))).encryptor()
    return int.from_bytes(encryptor.update(message)[-16:][:4], "big")


def test_hash_of_ipv4() -> None:
    """The hash of IPv4 is one block. Its value is pinned, because all balancers, planes and releases must agree."""
    flow = ("192.0.2.1", 50000, "198.51.100.1", 443)
    value = FourTupleHash(KEY).hash(flow)
    assert value == _independent(flow, bytes([192, 0, 2, 1]), bytes([198, 51, 100, 1]))
    assert value == 0x36A96DCB


def test_hash_of_ipv6() -> None:
    """The hash of IPv6 is three blocks, with a pinned value."""
    flow = ("2001:db8::1", 50000, "2001:db8::2", 443)
    prefix = bytes.fromhex("20010db8") + bytes(11)
    value = FourTupleHash(KEY).hash(flow)
    assert value == _independent(flow, prefix + b"\1", prefix + b"\2")
    assert value == 0xDCB42910


def test_mapped_addresses_are_ipv4() -> None:
    """The IPv4-mapped spelling of a dual-stack socket gives the same hash."""
    hasher = FourTupleHash(KEY)
    assert hasher.hash(("::ffff:192.0.2.1", 5, "::ffff:198.51.100.1", 443)) == hasher.hash(
        ("192.0.2.1", 5, "198.51.100.1", 443)
    )


def test_every_part_of_the_4_tuple_counts() -> None:
    """A change of any part changes the hash."""
    hasher = FourTupleHash(KEY)
    flows = [("192.0.2.1", 5, "198.51.100.1", 443), ("192.0.2.2", 5, "198.51.100.1", 443)]
    flows += [
        ("192.0.2.1", 6, "198.51.100.1", 443),
        ("192.0.2.1", 5, "198.51.100.2", 443),
        ("192.0.2.1", 5, "198.51.100.1", 444),
    ]
    flows += [("fe80::1%lo", 5, "::1", 443), ("fe80::2%lo", 5, "::1", 443), ("::1", 5, "fe80::1", 443)]
    assert len({hasher.hash(flow) for flow in flows}) == len(flows)
