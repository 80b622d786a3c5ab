"""The filter that limits floods of log lines."""

import logging
from typing import Any

from qlb.observe.logs import RateLimit


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        """Start at 100 s."""
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def line(
    message: object = "oh %s", *, name: str = "qlb", level: int = logging.INFO, args: Any = ()
) -> logging.LogRecord:
    """Return a log record."""
    return logging.LogRecord(name, level, __file__, 1, message, args, None)


def marks(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that the filter has added to a line."""
    return {key: value for key, value in vars(record).items() if "suppressed" in key or "limited" in key}


def test_a_burst_passes_and_the_rest_is_counted() -> None:
    """The last line of a burst announces the limit. The first one of the next window has the missing number."""
    clock = Clock()
    limit = RateLimit(burst=3, window_s=10.0, now=clock)
    lines = [line(args=(number,)) for number in range(8)]
    clock.now_s += 4.0
    assert [limit.filter(record) for record in lines] == [True] * 3 + [False] * 5
    assert [marks(record) for record in lines[:3]] == [{}, {}, {"limited_for_s": 10.0}]
    clock.now_s += 10.0
    late = [line(), line()]
    assert all(limit.filter(record) for record in late)
    assert [marks(record) for record in late] == [{"suppressed": 5}, {}]


def test_the_window_begins_with_its_first_line() -> None:
    """The announced time is the rest of the window, which began with its first line."""
    clock = Clock()
    limit = RateLimit(burst=2, window_s=10.0, now=clock)
    assert limit.filter(line())
    clock.now_s += 7.5
    last = line()
    assert limit.filter(last)
    assert marks(last) == {"limited_for_s": 2.5}


def test_kinds_do_not_limit_each_other() -> None:
    """Another logger, level or message has its own window. Other arguments have not."""
    limit = RateLimit(burst=1)
    assert limit.filter(line())
    assert not limit.filter(line(args=("else",)))
    assert limit.filter(line(name="qlb.health"))
    assert limit.filter(line(level=logging.ERROR))
    assert limit.filter(line("another"))


def test_any_message_object_is_a_kind() -> None:
    """A message that cannot be hashed is a kind too."""
    limit = RateLimit(burst=1)
    assert [limit.filter(line(["unhashable"])) for _ in range(2)] == [True, False]


def test_memory_is_bounded_and_every_line_is_counted() -> None:
    """The oldest kinds are removed from memory. The next line of any kind has the number of their suppressed lines."""
    limit = RateLimit(burst=1, kinds=3)
    limit.filter(line("first"))
    assert not limit.filter(line("first"))
    assert not limit.filter(line("first"))
    others = [line(f"kind {number}") for number in range(50)]
    assert all(limit.filter(record) for record in others)
    assert [marks(record).get("suppressed_others") for record in others] == [None, None, 2] + [None] * 47
    assert limit.filter(line("first"))


def test_a_new_window_makes_a_kind_the_newest() -> None:
    """A kind with a new window is not the next one to be removed from memory."""
    clock = Clock()
    limit = RateLimit(burst=1, window_s=1.0, kinds=2, now=clock)
    limit.filter(line("a"))
    limit.filter(line("b"))
    clock.now_s += 1.0
    limit.filter(line("a"))
    limit.filter(line("c"))
    assert not limit.filter(line("a"))
    assert limit.filter(line("b"))
