"""The log lines on stderr."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from qlb.observe.logs import BURST, StderrHandler, configure

log = logging.getLogger("qlb.test")


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """Restore the root logger after the test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines on stderr. Check that stdout is empty."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the JSON objects on stderr."""
    return [json.loads(row) for row in lines(capsys)]


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A line has time, level, logger, event, and the extra fields, which are quoted if they would be ambiguous."""
    configure("info", "text")
    log.warning("backend %s", "lost", extra={"backend": "a", "detail": 'no "answer"', "empty": "", "n": 0})
    (row,) = lines(capsys)
    moment, rest = row.split(" ", 1)
    assert moment.endswith("Z")
    assert datetime.fromisoformat(moment).tzinfo is not None
    assert rest == r'WARNING qlb.test backend lost backend=a detail="no \"answer\"" empty="" n=0'


def test_text_is_always_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Text from outside cannot begin a new line, move the cursor, or break the encoding."""
    configure("info", "text")
    log.info("got %s", "a\nERROR forged\x1b[2J", extra={"field": "b\r\nc\ud800é"})
    (row,) = lines(capsys)
    assert r"got a\nERROR forged\x1b[2J" in row
    assert row.endswith(r'field="b\r\nc\ud800é"')


def test_text_traceback_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines of a traceback are indented, so that none looks like a log line."""
    configure("info", "text")
    try:
        raise ValueError("bad\n2026-01-01T00:00:00.000Z INFO forged")
    except ValueError:
        log.exception("failed")
    first, *rest = lines(capsys)
    assert first.endswith("ERROR qlb.test failed")
    assert rest[0] == "  Traceback (most recent call last):"
    assert rest[-1] == "  2026-01-01T00:00:00.000Z INFO forged"
    assert all(row.startswith("  ") for row in rest)


@pytest.mark.parametrize("form", ["text", "json"])
def test_several_problems(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """Problems are one field: joined by semicolons in text, and a list in JSON. The event stays the same."""
    configure("info", form)
    log.error("reload refused", extra={"problems": ("a:1:1: x", "a:2:1: y")})
    (row,) = lines(capsys)
    if form == "text":
        assert row.endswith('ERROR qlb.test reload refused problems="a:1:1: x; a:2:1: y"')
    else:
        found = json.loads(row)
        assert (found["event"], found["problems"]) == ("reload refused", ["a:1:1: x", "a:2:1: y"])


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is one object with the format's own keys first and then the extra fields."""
    configure("info", "json")
    log.info("ready %d", 1, extra={"listen": ["127.0.0.1:1"], "path": ValueError("x"), "n": 2})
    (found,) = objects(capsys)
    assert list(found)[:4] == ["ts", "level", "logger", "event"]
    assert datetime.fromisoformat(found.pop("ts")).tzinfo is not None
    assert found == {
        "level": "info",
        "logger": "qlb.test",
        "event": "ready 1",
        "listen": ["127.0.0.1:1"],
        "path": "x",
        "n": 2,
    }


def test_json_protects_its_own_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """An extra field cannot replace the level or the time."""
    configure("info", "json")
    log.info("event", extra={"level": "error", "ts": "never", "event": "other"})
    (found,) = objects(capsys)
    assert (found["level"], found["event"]) == ("info", "event")
    assert found["ts"] != "never"


def test_json_traceback_is_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback is a field of the object, so it stays in one line."""
    configure("info", "json")
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        log.exception("failed")
    log.error("without", exc_info=True)
    first, second = objects(capsys)
    assert first["exception"].endswith("ValueError: bad\nvalue")
    assert "exception" not in second


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level(capsys: pytest.CaptureFixture[str], level: str, count: int) -> None:
    """Lines below the level are not written."""
    configure(level, "text")
    for write in (log.debug, log.info, log.warning, log.error):
        write("at a level")
    assert len(lines(capsys)) == count


def test_configuring_again_replaces(capsys: pytest.CaptureFixture[str]) -> None:
    """A reload replaces level and format without duplicate lines, and other handlers stay."""
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    configure("error", "text")
    configure("info", "json")
    log.info("once")
    assert [found["event"] for found in objects(capsys)] == ["once"]
    handlers = logging.getLogger().handlers
    assert other in handlers
    assert len([handler for handler in handlers if isinstance(handler, StderrHandler)]) == 1


def test_a_flood_is_limited(capsys: pytest.CaptureFixture[str]) -> None:
    """A flood of one event writes BURST lines, and the last one gives the time of the limit."""
    configure("info", "json")
    for number in range(3 * BURST):
        log.info("again %d", number)
    found = objects(capsys)
    assert len(found) == BURST
    assert found[-1]["limited_for_s"] > 0
