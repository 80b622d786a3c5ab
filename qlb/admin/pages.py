"""The pages that every client of the admin server may read. They change nothing and show no secret."""

import asyncio
import base64
import hashlib
import html
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib import metadata, resources
from typing import Final, Generic, NamedTuple, TypeVar

from aiohttp import web

from qlb.admin.http import HEADERS, json_body, page_response, text_response
from qlb.observe.exposition import Metrics, choose_format
from qlb.observe.figures import REMOVED, Reading
from qlb.observe.status import build_status

_SHARE: Final = 0.05
"""The share of a core for readings and renderings."""
_BURST_S: Final = 0.05
"""The processor time that they may use at once before pages are reused."""
_AGE_S: Final = 1.0
"""The age at which a page is rendered again, unless it is expensive."""
_COSTS: Final = 4
"""An expensive page is rendered again after this many times the processor time that it took."""

Item = TypeVar("Item")


class _Kept(NamedTuple, Generic[Item]):
    item: Item
    made_at_s: float
    cost_s: float


class PageCache:
    """The cache of one daemon's pages, by a key with few values. For one event loop."""

    def __init__(
        self,
        read: Callable[[], Reading],
        *,
        now: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        """read: takes a reading. now: a clock. used: the processor time of the calling thread."""
        self._read = read
        self._now = now
        self._used = used
        self._reading: _Kept[Reading] | None = None
        self._pages: dict[Hashable, _Kept[bytes]] = {}
        self._running: dict[Hashable, asyncio.Task[bytes]] = {}
        self._debt_s = 0.0
        self._paid_at_s = now()

    def reading(self) -> Reading:
        """Return a recent reading."""
        if self._reading is None or self._is_due(self._reading):
            self._reading = self._take()
        return self._reading.item

    async def page(self, key: Hashable, render: Callable[[Reading], bytes]) -> bytes:
        """Return a recent page of a key, or render one from a new reading. Exceptions of read and render are raised."""
        kept = self._pages.get(key)
        if kept is not None and not self._is_due(kept):
            return kept.item
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._make(key, render))
            self._running[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)  # other readers may wait for the same page

    def clear(self) -> None:
        """Remove everything, after a change that the next reader must see."""
        self._reading = None
        self._pages.clear()
        self._running.clear()

    def _is_due(self, kept: _Kept[Item]) -> bool:
        now_s = self._now()
        self._debt_s = max(self._debt_s - _SHARE * (now_s - self._paid_at_s), 0.0)
        self._paid_at_s = now_s
        if now_s - kept.made_at_s >= max(_AGE_S, _COSTS * kept.cost_s):
            return True
        return self._debt_s + kept.cost_s <= _BURST_S

    def _take(self) -> _Kept[Reading]:
        began_s = self._used()
        reading = self._read()
        cost_s = self._used() - began_s
        self._debt_s += cost_s
        return _Kept(reading, self._now(), cost_s)

    async def _make(self, key: Hashable, render: Callable[[Reading], bytes]) -> bytes:
        self._reading = taken = self._take()
        page, cost_s = await asyncio.to_thread(self._measured, render, taken.item)
        self._debt_s += cost_s
        if self._running.get(key) is asyncio.current_task():  # otherwise clear() was called in between
            self._pages[key] = _Kept(page, taken.made_at_s, taken.cost_s + cost_s)
        return page

    def _measured(self, render: Callable[[Reading], bytes], reading: Reading) -> tuple[bytes, float]:
        began_s = self._used()
        page = render(reading)
        return page, self._used() - began_s

    def _finish(self, key: Hashable, task: asyncio.Task[bytes]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # every reader that still waits raises it


_FILES: Final = resources.files("qlb.admin") / "page"
_STYLE: Final = (_FILES / "page.css").read_text("utf-8")
_SCRIPT: Final = (_FILES / "page.js").read_text("utf-8")


def documentation(project_urls: Iterable[str]) -> str:
    """Return the address of the documentation among the URLs of a package's metadata; "" if there is none."""
    for name, _, url in (entry.partition(", ") for entry in project_urls):
        if name.lower() == "documentation" and url.startswith("https://"):
            return f"{url.rstrip('/')}/"
    return ""


def _project_urls() -> Sequence[str]:
    try:
        return metadata.metadata("qlb").get_all("Project-URL") or ()
    except metadata.PackageNotFoundError:
        return ()


def document(documentation_url: str) -> str:
    """Return the HTML document. documentation_url: where its links to the documentation lead; "" = it has none."""
    page = (_FILES / "page.html").read_text("utf-8").replace("/*DOCS*/", html.escape(documentation_url))
    return page.replace("/*STYLE*/", _STYLE).replace("/*SCRIPT*/", _SCRIPT)


PAGE: Final = document(documentation(_project_urls()))
"""The HTML document of this installation."""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


PAGE_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(_SCRIPT)}",
        f"style-src {_hash(_STYLE)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The Content-Security-Policy of the document: only this script and this style, and requests to its own server."""


Page = Callable[[web.BaseRequest], Awaitable[web.Response]]


class Pages:
    """The pages of one daemon."""

    def __init__(self, read: Callable[[], Reading], ready: Callable[[], bool]) -> None:
        """read: takes a reading. ready: whether this node should get traffic."""
        self._ready = ready
        self._cache = PageCache(read)
        self.by_path: Mapping[str, Page] = {
            "": _overview,
            "healthz": _healthz,
            "metrics": self._metrics,
            "readyz": self._readyz,
            "status": self._status,
        }
        """Path without its slash → page."""

    def forget(self) -> None:
        """Clear the cache, after a command whose sender may read a page at once."""
        self._cache.clear()

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", ()))
        content_type = choose_format(accept).content_type
        body = await self._cache.page(content_type, lambda reading: Metrics(lambda: reading).render(accept)[0])
        return page_response(body, content_type)

    async def _status(self, _request: web.BaseRequest) -> web.Response:
        body = await self._cache.page("status", lambda reading: json_body(build_status(reading)))
        return page_response(body, "application/json")

    async def _readyz(self, _request: web.BaseRequest) -> web.Response:
        present = [row for row in self._cache.reading().backends if row.state != REMOVED]
        healthy = sum(row.healthy for row in present)
        if self._ready():
            noun = "backend is" if len(present) == 1 else "backends are"
            return text_response(HTTPStatus.OK, f"ready: {healthy} of {len(present)} {noun} healthy")
        if not present:
            reason = "no backends are configured"
        elif not healthy:
            reason = f"none of {len(present)} backends is healthy" if len(present) > 1 else "the backend is not healthy"
        else:
            reason = "starting or stopping, or no worker forwards"
        return text_response(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {reason}")


async def _overview(_request: web.BaseRequest) -> web.Response:
    headers = {**HEADERS, "Content-Security-Policy": PAGE_POLICY}
    return web.Response(text=PAGE, content_type="text/html", headers=headers)


async def _healthz(_request: web.BaseRequest) -> web.Response:
    return text_response(HTTPStatus.OK, "ok")
