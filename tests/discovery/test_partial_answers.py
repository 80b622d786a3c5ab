"""The backends that a source still has, although answers may lack some or contain only a part each time."""

import random
from collections.abc import Callable, Iterable

import pytest

from qlb.addresses import Endpoint
from qlb.discovery.watch import ROTATING_LOOKS, Presence
from qlb.routing.backends import Backend

EVERY = [Backend(f"b{number:02}", Endpoint(f"10.0.0.{number + 1}", 4433)) for number in range(40)]


def names(backends: Iterable[Backend]) -> list[str]:
    """Return the sorted names of backends."""
    return sorted(one.name for one in backends)


def pool(*numbers: int) -> list[Backend]:
    """Return the backends with these numbers."""
    return [EVERY[number] for number in numbers]


def test_patience() -> None:
    """A backend that returns in time stays. A backend that is missing often enough in a row is removed."""
    presence = Presence(3, 100)
    presence.take(pool(0, 1))
    assert names(presence.take(pool(0))) == names(presence.take(pool(0))) == ["b00", "b01"]
    assert presence.missing == 1
    presence.take(pool(0, 1))
    for wanted in (["b00", "b01"], ["b00", "b01"], ["b00"]):
        assert names(presence.take(pool(0))) == wanted
    assert presence.missing == 0
    assert names(presence.take(pool(0, 1))) == ["b00", "b01"]


def test_without_patience() -> None:
    """With a patience of 1, each answer applies at once, also with changing parts."""
    presence = Presence(1, 100)
    for start in (*range(20), 0, 5, 10, 0, 5, 10):
        assert presence.take(pool(start, start + 1)) == tuple(pool(start, start + 1))
    assert not presence.rotating


def test_backends_from_before() -> None:
    """After begin_again(), the count of missing answers starts at 0 for every backend."""
    presence = Presence(3, 100)
    presence.begin_again(pool(0, 1))
    for _ in range(2):
        assert names(presence.take(pool(1))) == ["b00", "b01"]
    presence.begin_again(pool(0, 1))
    for wanted in (["b00", "b01"], ["b00", "b01"], ["b01"]):
        assert names(presence.take(pool(1))) == wanted


def test_a_new_address_under_the_same_name() -> None:
    """A backend has the address of the last answer."""
    presence = Presence(3, 100)
    presence.take(pool(0, 1))
    moved = Backend("b00", Endpoint("10.9.9.9", 1))
    assert presence.take([moved]) == (pool(1)[0], moved)


def at_random(all_of: int, size: int, chance: random.Random) -> list[Backend]:
    """Return a random part of the backends, as Consul does."""
    return chance.sample(EVERY[:all_of], size)


@pytest.mark.parametrize(("all_of", "size"), [(9, 3), (6, 3), (4, 3), (20, 8), (9, 8)])
@pytest.mark.parametrize("seed", range(5))
def test_rotating_answers(all_of: int, size: int, seed: int) -> None:
    """With rotating answers, every backend that was seen stays."""
    presence, chance, seen = Presence(3, 100), random.Random(seed), set[str]()
    for _ in range(300):
        answer = at_random(all_of, size, chance)
        seen |= set(names(answer))
        assert set(names(presence.take(answer))) == seen
    assert presence.rotating
    assert len(seen) == all_of


def test_answers_in_turn() -> None:
    """Parts in a fixed order are rotating answers too."""
    presence = Presence(3, 100)
    for turn in range(100):
        found = presence.take([EVERY[(3 * turn + offset) % 9] for offset in range(3)])
        assert len(found) == min(3 * (turn + 1), 9)


def test_one_that_leaves_a_rotating_pool() -> None:
    """In a rotating pool, a backend is removed after many answers without it."""
    presence, chance = Presence(3, 100), random.Random(1)
    for _ in range(100):
        presence.take(at_random(9, 3, chance))
    for look in range(ROTATING_LOOKS + 20):
        found = names(presence.take(at_random(8, 3, chance)))
        assert look < 20 or len(found) in (8, 9)
    assert found == names(EVERY[:8])


def test_answers_that_rotate_no_more() -> None:
    """Answers do not rotate any more when the pool is so small that each answer contains all of it."""
    presence, chance = Presence(3, 100), random.Random(1)
    for _ in range(100):
        presence.take(at_random(9, 3, chance))
    for _ in range(8):
        presence.take(pool(0, 1, 2))
    assert names(presence.take(pool(0, 1, 2))) == ["b00", "b01", "b02"]
    assert not presence.rotating


Answers = Callable[[int], list[Backend]]


@pytest.mark.parametrize(
    ("answers", "looks"),
    [
        (lambda turn: pool(0, 1, 2) if turn < 5 else pool(3, 4, 5), 3),
        (lambda turn: pool(0, 1, 2) if turn < 5 else pool(2), 3),
        (lambda turn: [] if turn == 5 else pool(0, 1), 1),
    ],
)
def test_changes_that_are_no_rotation(answers: Answers, looks: int) -> None:
    """A replaced pool, a smaller one, and an empty answer apply as soon as patience allows."""
    presence = Presence(3, 100)
    for turn in range(30):
        found = names(presence.take(answers(turn)))
        assert found == names(answers(turn)) or turn < 5 + looks
        assert not presence.rotating


def test_a_pool_that_is_replaced_one_by_one() -> None:
    """After a pool is replaced one by one, the old backends are removed soon."""
    presence = Presence(3, 100)
    for turn in range(60):
        at = min(max(turn - 10, 0) // 4, 5)
        found = names(presence.take([*EVERY[at:5], *EVERY[20 : 20 + at]]))
    assert found == names(EVERY[20:25])


def test_memory_is_bounded() -> None:
    """A source with new names in every answer has at most `most` backends, and memory is bounded."""
    presence = Presence(3, 50)
    for turn in range(400):
        answer = [Backend(f"x{turn}-{number}", Endpoint("10.0.0.1", number)) for number in range(1, 31)]
        found = presence.take(answer)
        assert len(found) <= 50
        assert set(names(answer)) <= set(names(found))
    assert sum(map(len, (presence._gone, presence._kept, presence._missing))) < 5000
