"""Logging: what the daemon writes to stderr, a line an event, for people or for programs.

Code says ``log.info("what happened", extra={"backend": name})``; the extra fields become ``key=value`` in text
and keys in JSON. Lines of one kind that come too often are left out and counted. Packets are never logged.
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

BURST: Final = 100
"""Lines of one kind in a window; so many backends can change together and still all be named."""
WINDOW_S: Final = 10.0
KINDS: Final = 1024
"""Kinds that are remembered; the one that was begun first is forgotten first."""

_Kind = tuple[str, int, str]


class _Window:
    __slots__ = ("began_s", "passed", "suppressed")

    def __init__(self, began_s: float, suppressed: int) -> None:
        self.began_s = began_s
        self.passed = 0
        self.suppressed = suppressed


class RateLimit(logging.Filter):
    """Suppresses repeats.

    The last line that passes in a window says ``limited_for_s``: how long those like it will be suppressed at
    most. The first that passes after it says ``suppressed``: how many were. What was suppressed of kinds that
    are forgotten since is told by the next line of all, as ``suppressed_others``.
    """

    def __init__(
        self,
        *,
        burst: int = BURST,
        window_s: float = WINDOW_S,
        kinds: int = KINDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """burst: lines of a kind that pass in window_s seconds. kinds: how many are remembered. now: a clock."""
        super().__init__()
        self._burst = burst
        self._window_s = window_s
        self._kinds = kinds
        self._now = now
        self._windows: OrderedDict[_Kind, _Window] = OrderedDict()
        self._forgotten = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a line passes, and write on it what was left out."""
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
"""What the logging module itself puts into a record; all else is an extra field."""
_NOT_PLAIN: Final = re.compile(r'[\s"=]')


class TextFormat(logging.Formatter):
    """``2026-11-22T22:18:00.123Z INFO qlb ready listen=127.0.0.1:4433``; a traceback follows, indented.

    Control characters are escaped, so that no text from outside can begin a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = "".join(f" {key}={_quoted(value)}" for key, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname} {record.name} {record.getMessage()}{fields}"
        return "\n".join([_escaped(line), *(f"  {_escaped(row)}" for row in _traceback(self, record))])


class JsonFormat(logging.Formatter):
    """One JSON object a line: ts, level, logger, event, the extra fields, and exception if there is one."""

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
    """The one handler of a process; its type tells it from handlers that others have installed."""


def configure(level: str, format: str) -> None:  # noqa: A002 (the configuration's name)
    """Write everything from a level up to stderr; again at each reload, which replaces the earlier settings.

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
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or _NOT_PLAIN.search(text) else text


def _escaped(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
