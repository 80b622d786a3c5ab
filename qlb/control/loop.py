"""The event loop: uvloop where it is installed, asyncio's own where it is not."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

Result = TypeVar("Result")


def run_on_fast_loop(main: Coroutine[object, None, Result]) -> Result:
    """Run a coroutine to its end on a new loop and return what it returns."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
