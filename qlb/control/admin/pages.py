"""What everybody who reaches the admin server may read. Nothing here changes anything or shows a secret."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web

from qlb.control.admin.cache import PageCache
from qlb.control.admin.html import PAGE, PAGE_POLICY
from qlb.control.admin.http import HEADERS, json_body, page_response, text_response
from qlb.observe.metrics import Metrics, choose_format
from qlb.observe.reading import REMOVED, Reading
from qlb.observe.status import build_status

Page = Callable[[web.BaseRequest], Awaitable[web.Response]]


class Pages:
    """The pages of one daemon."""

    def __init__(self, read: Callable[[], Reading], ready: Callable[[], bool]) -> None:
        """read: takes a reading. ready: whether this node should be sent traffic."""
        self._ready = ready
        self._cache = PageCache(read)
        self.by_path: Mapping[str, Page] = {
            "": _overview,
            "healthz": _healthz,
            "metrics": self._metrics,
            "readyz": self._readyz,
            "status": self._status,
        }
        """Path, without its slash → page."""

    def forget(self) -> None:
        """Forget what was rendered: a command has changed something, and its sender may look at once."""
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
            return text_response(HTTPStatus.OK, f"ready: {healthy} of {len(present)} backends are healthy")
        if not present:
            reason = "no backends are configured"
        elif not healthy:
            reason = f"none of {len(present)} backends is healthy"
        else:
            reason = "starting or stopping, or no worker forwards"
        return text_response(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {reason}")


async def _overview(_request: web.BaseRequest) -> web.Response:
    headers = {**HEADERS, "Content-Security-Policy": PAGE_POLICY}
    return web.Response(text=PAGE, content_type="text/html", headers=headers)


async def _healthz(_request: web.BaseRequest) -> web.Response:
    return text_response(HTTPStatus.OK, "ok")
