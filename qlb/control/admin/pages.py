"""What everybody who reaches the admin server may read. Nothing here changes anything or shows a secret."""

from collections.abc import Callable, Mapping
from http import HTTPStatus

from aiohttp import web

from qlb.control.admin.html import PAGE, PAGE_POLICY
from qlb.control.admin.http import HEADERS, json_response, text_response
from qlb.observe.metrics import Metrics
from qlb.observe.reading import REMOVED, Reading
from qlb.observe.status import build_status

Page = Callable[[web.BaseRequest], web.Response]


class Pages:
    """The pages of one daemon."""

    def __init__(self, read: Callable[[], Reading], ready: Callable[[], bool]) -> None:
        """read: takes a reading. ready: whether this node should be sent traffic."""
        self._read = read
        self._ready = ready
        self._metrics = Metrics(read)
        self.by_path: Mapping[str, Page] = {
            "": _overview,
            "healthz": _healthz,
            "metrics": self._metrics_page,
            "readyz": self._readyz,
            "status": self._status,
        }
        """Path, without its slash → page."""

    def _metrics_page(self, request: web.BaseRequest) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", ()))
        body, content_type = self._metrics.render(accept)
        return web.Response(body=body, headers={**HEADERS, "Content-Type": content_type})

    def _readyz(self, _request: web.BaseRequest) -> web.Response:
        present = [row for row in self._read().backends if row.state != REMOVED]
        healthy = sum(row.healthy for row in present)
        if self._ready():
            return text_response(HTTPStatus.OK, f"ready: {healthy} of {len(present)} backends are healthy")
        if not present:
            reason = "no backends are configured"
        elif not healthy:
            reason = f"none of {len(present)} backends is healthy"
        else:
            reason = "starting or stopping"
        return text_response(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {reason}")

    def _status(self, _request: web.BaseRequest) -> web.Response:
        return json_response(HTTPStatus.OK, build_status(self._read()))


def _overview(_request: web.BaseRequest) -> web.Response:
    headers = {**HEADERS, "Content-Security-Policy": PAGE_POLICY}
    return web.Response(text=PAGE, content_type="text/html", headers=headers)


def _healthz(_request: web.BaseRequest) -> web.Response:
    return text_response(HTTPStatus.OK, "ok")
