"""Logging: what the daemon writes to stderr, a line an event, for people or for programs.

Code says ``log.info("what happened", extra={"backend": name})``; the extra fields become ``key=value`` in text
and keys in JSON. Lines of one kind that come too often are left out and counted. Packets are never logged.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

from qlb.observe.rate_limit import RateLimit

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
