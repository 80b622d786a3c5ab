"""The event loop: uvloop where it is installed, asyncio's own where it is not."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

try:
    import uvloop
except ImportError:
    _new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    _new_loop = uvloop.new_event_loop

Result = TypeVar("Result")


def run_on_fast_loop(main: Coroutine[object, None, Result]) -> Result:
    """Run a coroutine to its end on a new loop and return what it returns."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)
