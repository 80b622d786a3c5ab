"""A logging filter that lets a few lines of a kind through in a while and counts the rest.

A kind is a logger, a level and a message before its arguments are put in: what differs from time to time
(addresses, names) belongs into arguments and extra fields, so whatever floods, the log stays small.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

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
