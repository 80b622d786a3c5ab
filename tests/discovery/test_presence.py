"""Which backends a source still has: some answers lack some of them, and some sources answer with a part each time."""

import random
from collections.abc import Callable, Iterable

import pytest

from qlb.addresses import Endpoint
from qlb.discovery.watch import ROTATING_LOOKS, Presence
from qlb.routing.backends import Backend

EVERY = [Backend(f"b{number:02}", Endpoint(f"10.0.0.{number + 1}", 4433)) for number in range(40)]


def names(backends: Iterable[Backend]) -> list[str]:
    """Return their names."""
    return sorted(one.name for one in backends)


def pool(*numbers: int) -> list[Backend]:
    """Return some backends."""
    return [EVERY[number] for number in numbers]


def test_patience() -> None:
    """One that is back in time was never away; one that is lacking often enough in a row is gone."""
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
    """A registry that knows all of its backends is believed at once, whatever its answers look like."""
    presence = Presence(1, 100)
    for start in (*range(20), 0, 5, 10, 0, 5, 10):
        assert presence.take(pool(start, start + 1)) == tuple(pool(start, start + 1))
    assert not presence.rotating


def test_what_is_known_from_before() -> None:
    """It is missing for no answer yet; looking anew forgets no more than that."""
    presence = Presence(3, 100)
    presence.begin_again(pool(0, 1))
    for _ in range(2):
        assert names(presence.take(pool(1))) == ["b00", "b01"]
    presence.begin_again(pool(0, 1))
    for wanted in (["b00", "b01"], ["b00", "b01"], ["b01"]):
        assert names(presence.take(pool(1))) == wanted


def test_a_new_address_under_the_same_name() -> None:
    """The last answer counts."""
    presence = Presence(3, 100)
    presence.take(pool(0, 1))
    moved = Backend("b00", Endpoint("10.9.9.9", 1))
    assert presence.take([moved]) == (pool(1)[0], moved)


def at_random(all_of: int, size: int, chance: random.Random) -> list[Backend]:
    """Answer as Consul does."""
    return chance.sample(EVERY[:all_of], size)


@pytest.mark.parametrize(("all_of", "size"), [(9, 3), (6, 3), (4, 3), (20, 8), (9, 8)])
@pytest.mark.parametrize("seed", range(5))
def test_rotating_answers(all_of: int, size: int, seed: int) -> None:
    """Who has been seen stays, from the first answer on."""
    presence, chance, seen = Presence(3, 100), random.Random(seed), set[str]()
    for _ in range(300):
        answer = at_random(all_of, size, chance)
        seen |= set(names(answer))
        assert set(names(presence.take(answer))) == seen
    assert presence.rotating
    assert len(seen) == all_of


def test_answers_in_turn() -> None:
    """A resolver that deals its records out in order is the same thing."""
    presence = Presence(3, 100)
    for turn in range(100):
        found = presence.take([EVERY[(3 * turn + place) % 9] for place in range(3)])
        assert len(found) == min(3 * (turn + 1), 9)


def test_one_that_leaves_a_rotating_pool() -> None:
    """It is gone after many answers that lack it."""
    presence, chance = Presence(3, 100), random.Random(1)
    for _ in range(100):
        presence.take(at_random(9, 3, chance))
    for look in range(ROTATING_LOOKS + 20):
        found = names(presence.take(at_random(8, 3, chance)))
        assert look < 20 or len(found) in (8, 9)
    assert found == names(EVERY[:8])


def test_answers_that_rotate_no_more() -> None:
    """The pool has become so small that each answer holds all of it."""
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
def test_what_is_no_rotation(answers: Answers, looks: int) -> None:
    """Another pool at once, a smaller one, none for a moment: believed as soon as patience says."""
    presence = Presence(3, 100)
    for turn in range(30):
        found = names(presence.take(answers(turn)))
        assert found == names(answers(turn)) or turn < 5 + looks
        assert not presence.rotating


def test_a_pool_that_is_replaced_one_by_one() -> None:
    """It may look like rotation while it lasts; soon after, the old ones are gone."""
    presence = Presence(3, 100)
    for turn in range(60):
        at = min(max(turn - 10, 0) // 4, 5)
        found = names(presence.take([*EVERY[at:5], *EVERY[20 : 20 + at]]))
    assert found == names(EVERY[20:25])


def test_memory_is_bounded() -> None:
    """A hostile source has new names in every answer; no more are kept than it may have."""
    presence = Presence(3, 50)
    for turn in range(400):
        answer = [Backend(f"x{turn}-{number}", Endpoint("10.0.0.1", number)) for number in range(1, 31)]
        found = presence.take(answer)
        assert len(found) <= 50
        assert set(names(answer)) <= set(names(found))
    assert sum(map(len, (presence._gone, presence._kept, presence._missing))) < 5000
