"""The collection of problems: order, silence, and the values that a message may show."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlb.config.problems import MAX_COUNTED, MAX_SHOWN, MAX_SUGGESTIONS, Mark, Problems, shown
from qlb.errors import ConfigError


def test_problems_are_in_the_order_of_the_file_and_reported_once() -> None:
    """Problems are sorted by line and column, equal ones are merged, and no problem raises nothing."""
    problems = Problems(Path("a.yaml"))
    problems.raise_if_any()
    for mark, text in [(Mark(10, 2), "c"), (Mark(9, 9), "b"), (Mark(9, 1), "a"), (Mark(9, 9), "b")]:
        problems.add(mark, text)
    with pytest.raises(ConfigError) as caught:
        problems.raise_if_any()
    assert caught.value.problems == ("a.yaml:9:1: a", "a.yaml:9:9: b", "a.yaml:10:2: c")
    assert str(caught.value) == "a.yaml:9:1: a\na.yaml:9:9: b\na.yaml:10:2: c"


def test_a_silenced_position_has_no_further_problems() -> None:
    """Earlier problems at a silenced position remain, later ones are ignored."""
    problems = Problems(Path("a"))
    problems.add(Mark(1, 1), "first")
    problems.silence(Mark(1, 1))
    problems.add(Mark(1, 1), "second")
    assert problems.lines() == ("a:1:1: first",)


KEY = "8f95f09245765f80256934e50c66207f"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        KEY.upper(),
        KEY[:-1],
        f"keys/{KEY}.hex",
        bytes.fromhex(KEY).hex(":"),
        bytes.fromhex(KEY).hex(" "),
        f"key:{KEY}",
    ],
)
def test_what_looks_like_a_key_is_not_shown(text: str) -> None:
    """A text that looks like a key is not shown at all, wherever it is."""
    assert shown(text) == f"<{len(text)} characters that look like a key, not shown>"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("c0ffee01", "'c0ffee01'"),
        ("[2001:0db8:0000:0000:0000:0000:0000:0001]:4433", "'[2001:0db8:0000:0000:0000:0000:0000:0001]:4433'"),
        ("a\nb", r"'a\nb'"),
        ("x" * 61, f"'{'x' * 60}…'"),
    ],
)
def test_what_is_shown(text: str, written: str) -> None:
    """A value is quoted, on one line and cut; server IDs and IPv6 addresses do not look like keys."""
    assert shown(text) == written


@settings(deadline=None)
@given(st.text())
def test_anything_shown_is_one_printable_line(text: str) -> None:
    """No value can break the line or control a terminal."""
    assert shown(text).isprintable()


def test_a_long_list_ends_with_the_number_of_the_others() -> None:
    """The first hundred problems are reported, then one line with the number of the others."""
    problems = Problems(Path("a"))
    for line in range(MAX_SHOWN + 5, 0, -1):
        problems.add(Mark(line, 1), "x")
    lines = problems.lines()
    assert lines[:2] == ("a:1:1: x", "a:2:1: x")
    assert lines[MAX_SHOWN:] == (f"a:{MAX_SHOWN + 1}:1: and 5 more problems",)
    problems.raise_if_too_many()


def test_a_file_of_nothing_but_problems_is_not_read_to_its_end() -> None:
    """Beyond MAX_COUNTED, checking stops and the number is a lower bound."""
    problems = Problems(Path("a"), "warnings")
    for line in range(MAX_COUNTED + 2):
        problems.add(Mark(line + 1, 1), "x")
    assert problems.lines()[-1].endswith(f"and at least {MAX_COUNTED - MAX_SHOWN + 2} more warnings")
    with pytest.raises(ConfigError):
        problems.raise_if_too_many()


def test_similar_words_are_searched_for_a_few_words_only() -> None:
    """A repeated word uses the earlier answer, and a long word gets no suggestion."""
    problems = Problems(Path("a"))
    words = [f"adres{n}" for n in range(MAX_SUGGESTIONS + 2)]
    found = [problems.suggestion(word, ["address"], 0.6) for word in words]
    assert found == ["address"] * MAX_SUGGESTIONS + ["", ""]
    assert problems.suggestion(words[0], ["address"], 0.6) == "address"
    assert problems.suggestion("x" * 41, ["x" * 40], 0.6) == ""
