"""The routes from requests to answers: pages on every listener, commands only on the control socket.

A request is a method and a path. Queries and small bodies are ignored; large bodies are rejected.
"""

import ipaddress
import logging
import os
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from qlb.admin.commands import Commands
from qlb.admin.http import text_response
from qlb.admin.pages import Pages

log = logging.getLogger("qlb.admin")

CONFIGURATION_HEADER: Final = "Qlb-Configuration"
"""A request on the control socket with this header is only for the daemon of one file: its real path, URL-encoded."""
_MAX_BODY_BYTES: Final = 4096
"""No request needs a body; some clients send a small one with every POST."""
_READING: Final = ("GET", "HEAD")


class Routes:
    """The routes of one listener."""

    def __init__(
        self,
        pages: Pages,
        commands: Commands | None = None,
        *,
        local_names_only: bool = False,
        configuration: Path | None = None,
    ) -> None:
        """commands: None = read-only. configuration: reject requests for the daemon of another file.

        local_names_only: reject requests whose Host header has a name other than localhost. For listeners on loopback:
        there, another name comes from a web page whose author made the name point to this machine (DNS rebinding).
        Other listeners can have names that this machine does not know.
        """
        self._pages = pages
        self._commands = commands
        self._local_names_only = local_names_only
        self._configuration = None if configuration is None else os.path.realpath(configuration)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer a request. Never raises: an error in the daemon is logged and answered with 500."""
        try:
            return self._refusal(request) or await self._route(request)
        except Exception:
            log.exception("admin request failed", extra={"method": request.method, "target": request.raw_path})
            return text_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the daemon's log has the reason")

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        names = request.headers.getall("Host", ()) if self._local_names_only else ()
        if not all(map(is_local_name, names)):
            return text_response(HTTPStatus.MISDIRECTED_REQUEST, "use an IP address or localhost in the URL")
        wanted = unquote(request.headers.get(CONFIGURATION_HEADER, ""), errors="surrogateescape")
        if self._configuration is not None and wanted not in ("", self._configuration):
            name = os.fsencode(self._configuration).decode(errors="replace")
            return text_response(HTTPStatus.MISDIRECTED_REQUEST, f"the daemon here runs {name}")
        length = request.content_length
        if request.body_exists and (length is None or length > _MAX_BODY_BYTES):
            response = text_response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request body too large: no request needs a body"
            )
            response.force_close()
            return response
        return None

    async def _route(self, request: web.BaseRequest) -> web.Response:
        path = [unquote(part) for part in request.rel_url.raw_path.removeprefix("/").split("/")]
        page = self._pages.by_path.get(path[0]) if len(path) == 1 else None
        if request.method in _READING and page is not None:
            return await page(request)
        if self._commands is None and request.method not in _READING:
            return _not_allowed(_READING, "read-only: use the control socket for commands")
        command = self._commands.find(path) if self._commands is not None else None
        if command is not None and request.method == "POST":
            try:
                return await command()
            finally:
                self._pages.forget()
        if command is not None:
            return _not_allowed(("POST",), "this is a command: use POST")
        if page is not None:
            return _not_allowed(_READING, "this is a page: use GET")
        return text_response(
            HTTPStatus.NOT_FOUND, "not found; the pages are /, /status, /metrics, /healthz and /readyz"
        )


def is_local_name(host: str) -> bool:
    """Return whether a Host header is an IP literal or localhost, with or without a port.

    No foreign name server can make these point to this machine.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _not_allowed(methods: Sequence[str], text: str) -> web.Response:
    response = text_response(HTTPStatus.METHOD_NOT_ALLOWED, text)
    response.headers["Allow"] = ", ".join(methods)
    return response
