"""Tests of the fallback: equal on every balancer, by weight, and stable when the pool changes."""

import os
import subprocess
import sys
from array import array
from collections import Counter

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.addresses import FourTuple, canonical_host
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
    """Shares of equal weights differ by at most one slot."""
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
def test_a_change_of_weight_moves_few_slots(before: list[int], after: list[int]) -> None:
    """Growing shares get slots; beyond that about one slot in two hundred moves."""

    def owners(weights: list[int]) -> list[str]:
        return _owners(
            build_ring([Member(f"n{at}", weight) for at, weight in enumerate(weights) if weight], DEFAULT_KEY)
        )

    moved = sum(was != now for was, now in zip(owners(before), owners(after), strict=True)) / 65_537
    needed = sum(max(new / sum(after) - old / sum(before), 0) for old, new in zip(before, after, strict=True))
    assert needed * 0.99 <= moved <= needed * 1.02 + 0.005


def test_shares_follow_weights() -> None:
    """Shares differ from the weights by less than one percent of the ring."""
    weights = {"a": 1, "b": 2, "c": 5, "d": 65_535}
    counts = Counter(_owners(build_ring([Member(*item) for item in weights.items()], DEFAULT_KEY)))
    total = sum(weights.values())
    for name, weight in weights.items():
        assert abs(counts[name] / 65_537 - weight / total) < 0.01


@pytest.mark.usefixtures("small_ring")
def test_order_of_the_configuration_does_not_matter() -> None:
    """Balancers that list the backends in different orders have the same ring."""
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


@pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.slow), 100])
def test_a_removed_backend_moves_only_its_share(count: int) -> None:
    """If one of N backends is removed, about 1/N of the slots move, and less than one percent more."""
    before = _owners(build_ring(_members(count), DEFAULT_KEY))
    after = _owners(build_ring(_members(count)[1:], DEFAULT_KEY))
    moved = sum(a != b for a, b in zip(before, after, strict=True)) / len(before)
    assert 1 / count <= moved + 0.001
    assert moved < 1 / count + 0.01


def test_an_empty_ring() -> None:
    """Without members there are no slots and no assignment."""
    ring = build_ring([], KEY)
    assert ring == Ring(KEY, (), array("i"))
    assert not assign(ring, [])


def test_large_pools_get_a_large_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring grows if it has too few slots per backend, up to the largest size."""
    monkeypatch.setattr(maglev, "RING_SIZES", (53, 521))
    assert len(build_ring(_members(3), KEY).slots) == 53
    assert len(build_ring(_members(4), KEY).slots) == 521
    assert len(build_ring(_members(300), KEY).slots) == 521


@pytest.mark.usefixtures("small_ring")
def test_all_take_part() -> None:
    """Each slot is assigned the index of its owner."""
    ring = build_ring(_members(3), KEY)
    assert assign(ring, [10, 20, 30]) == array("i", [(10, 20, 30)[position] for position in ring.slots])


@pytest.mark.usefixtures("small_ring")
def test_an_absent_backend_lends_only_its_own_slots() -> None:
    """Only the slots of an absent backend move, evenly to all others, and they return with it."""
    ring = build_ring(_members(5), KEY)
    whole, without = assign(ring, [0, 1, 2, 3, 4]), assign(ring, [0, 1, -1, 3, 4])
    lent = Counter(new for old, new in zip(whole, without, strict=True) if old == 2)
    assert all(old == new for old, new in zip(whole, without, strict=True) if old != 2)
    assert set(lent) == {0, 1, 3, 4}
    assert max(lent.values()) < 1.2 * min(lent.values())
    assert assign(ring, [0, 1, 2, 3, 4]) == whole


@pytest.mark.usefixtures("small_ring")
def test_the_last_backend_gets_all_slots() -> None:
    """A single remaining backend gets all slots, however small its share is."""
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
    """The hash of IPv4 uses one block; its value is fixed, because every balancer, plane and release must agree."""
    flow = ("192.0.2.1", 50000, "198.51.100.1", 443)
    value = FourTupleHash(KEY).hash(flow)
    assert value == _independent(flow, bytes([192, 0, 2, 1]), bytes([198, 51, 100, 1]))
    assert value == 0x36A96DCB


def test_hash_of_ipv6() -> None:
    """The hash of IPv6 uses three blocks; its value is fixed."""
    flow = ("2001:db8::1", 50000, "2001:db8::2", 443)
    prefix = bytes.fromhex("20010db8") + bytes(11)
    value = FourTupleHash(KEY).hash(flow)
    assert value == _independent(flow, prefix + b"\1", prefix + b"\2")
    assert value == 0xDCB42910


def test_mapped_addresses_are_ipv4() -> None:
    """The hash of IPv4-mapped addresses of a dual-stack socket is that of the IPv4 addresses."""
    hasher = FourTupleHash(KEY)
    assert hasher.hash(("::ffff:192.0.2.1", 5, "::ffff:198.51.100.1", 443)) == hasher.hash(
        ("192.0.2.1", 5, "198.51.100.1", 443)
    )


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("::ffff:0:192.0.2.1", "::ffff:0:192.0.2.1"),
        ("::ffff:1", "::ffff:1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_canonical_hosts(host: str, canonical: str) -> None:
    """Only IPv4-mapped addresses change, in both spellings; similar addresses do not."""
    assert canonical_host(host) == canonical


def test_every_part_of_the_4_tuple_counts() -> None:
    """Flows that differ in one part of the 4-tuple have different hashes."""
    hasher = FourTupleHash(KEY)
    flows = [("192.0.2.1", 5, "198.51.100.1", 443), ("192.0.2.2", 5, "198.51.100.1", 443)]
    flows += [
        ("192.0.2.1", 6, "198.51.100.1", 443),
        ("192.0.2.1", 5, "198.51.100.2", 443),
        ("192.0.2.1", 5, "198.51.100.1", 444),
    ]
    flows += [("fe80::1%lo", 5, "::1", 443), ("fe80::2%lo", 5, "::1", 443), ("::1", 5, "fe80::1", 443)]
    assert len({hasher.hash(flow) for flow in flows}) == len(flows)
