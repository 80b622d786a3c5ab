"""Logging: one line on stderr for each event, as text or as JSON.

Code calls ``log.info("event", extra={"backend": name})``. The extra fields become ``key=value`` in text and keys in
JSON; a tuple is joined by semicolons in text, and a list in JSON. The text of an event is constant if the event has a
reason or problems, so that programs can count it. Lines of one kind that are too frequent are omitted and counted.
Packets are never logged.
"""

import json
import logging
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO

from qlb.observe.streams import escaped

BURST: Final = 100
"""Lines of one kind in a window: up to this many backends can change together, and each still has its line."""
WINDOW_S: Final = 10.0
KINDS: Final = 1024
"""Kinds in memory. The kind with the oldest window is removed first."""

_Kind = tuple[str, int, str]


class _Window:
    __slots__ = ("began_s", "passed", "suppressed")

    def __init__(self, began_s: float, suppressed: int) -> None:
        self.began_s = began_s
        self.passed = 0
        self.suppressed = suppressed


class RateLimit(logging.Filter):
    """A filter that suppresses repeated lines.

    The last line of a kind that passes in a window has ``limited_for_s``: the longest time for which lines of its kind
    will be suppressed. The first one that passes after it has ``suppressed``: the number of suppressed lines. Those of
    kinds that were removed from memory are counted in ``suppressed_others`` of the next line of any kind.
    """

    def __init__(
        self,
        *,
        burst: int = BURST,
        window_s: float = WINDOW_S,
        kinds: int = KINDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """burst: lines of a kind that pass in window_s seconds. kinds: the number of kinds in memory. now: a clock."""
        super().__init__()
        self._burst = burst
        self._window_s = window_s
        self._kinds = kinds
        self._now = now
        self._windows: OrderedDict[_Kind, _Window] = OrderedDict()
        self._forgotten = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line passes. Add the number of suppressed lines to it."""
        with self._lock:
            now_s = self._now()
            window = self._window((record.name, record.levelno, str(record.msg)), now_s)
            if window.passed >= self._burst:
                window.suppressed += 1
                return False
            window.passed += 1
            if window.suppressed:
                record.suppressed, window.suppressed = window.suppressed, 0
            if self._forgotten:
                record.suppressed_others, self._forgotten = self._forgotten, 0
            if window.passed == self._burst:
                record.limited_for_s = round(window.began_s + self._window_s - now_s, 1)
            return True

    def _window(self, kind: _Kind, now_s: float) -> _Window:
        window = self._windows.get(kind)
        if window is None or now_s - window.began_s >= self._window_s:
            window = self._windows[kind] = _Window(now_s, window.suppressed if window else 0)
            self._windows.move_to_end(kind)
            if len(self._windows) > self._kinds:
                _, oldest = self._windows.popitem(last=False)
                self._forgotten += oldest.suppressed
        return window


_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_OWN_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes that the logging module itself sets on a record. Every other one is an extra field."""
_NOT_PLAIN: Final = re.compile(r'[\s"=]')


class TextFormat(logging.Formatter):
    """The text format: ``2026-11-22T22:18:00.123Z INFO qlb ready listen=127.0.0.1:4433``, then an indented traceback.

    Control characters are escaped, so that text from outside cannot begin a new line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = "".join(f" {key}={_quoted(value)}" for key, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname} {record.name} {record.getMessage()}{fields}"
        return "\n".join([escaped(line), *(f"  {escaped(row)}" for row in _traceback(self, record))])


class JsonFormat(logging.Formatter):
    """The JSON format: one object per line with ts, level, logger, event, the extra fields, and any exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {
            **_extra(record),
            "ts": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        trace = _traceback(self, record)
        if trace:
            fields["exception"] = "\n".join(trace)
        first = {key: fields.pop(key) for key in ("ts", "level", "logger", "event")}
        return json.dumps({**first, **fields}, default=str)


class StderrHandler(logging.StreamHandler[TextIO]):
    """The log handler of a process. Its type distinguishes it from handlers that other code has installed."""


def configure(level: str, format: str) -> None:  # noqa: A002 (the name in the configuration)
    """Write lines of a level and above to stderr. Each reload calls this again and replaces the earlier settings.

    level: debug, info, warning or error. format: text or json.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, StderrHandler)]:
        root.removeHandler(handler)
    handler = StderrHandler(sys.stderr)
    handler.setFormatter(JsonFormat() if format == "json" else TextFormat())
    handler.addFilter(RateLimit())
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _OWN_FIELDS}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if not record.exc_info or record.exc_info[0] is None:
        return []
    return formatter.formatException(record.exc_info).splitlines()


def _quoted(value: object) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or _NOT_PLAIN.search(text) else text
