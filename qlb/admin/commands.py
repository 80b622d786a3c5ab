"""The commands of the control socket: reload, drain, undrain, explain, config, upgrade. Answers are JSON.

200: done. 404: there is no backend of that name; the answer lists the names. 409: live connections would break;
``problems`` names the reasons, and /reload/force reloads anyway. 422: the configuration is wrong, or the new process
cannot take over; nothing has changed, and ``problems`` has the reasons. 503: the change is in force, but some worker
has not applied it yet; ``problems`` names the workers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple, Protocol

from aiohttp import web

from qlb.addresses import Endpoint
from qlb.admin.http import json_body, json_response, page_response
from qlb.config.names import endpoint
from qlb.errors import ConfigError, QlbError
from qlb.observe.figures import REMOVED, Reading

Command = Callable[[], Awaitable[web.Response]]


class ReloadOutcome(NamedTuple):
    """The result of a reload. generation: the one in force now. problems: why it was refused, one per line.

    unsafe: it was refused because live connections would break; it can be forced. changes: the differences, in words.
    incomplete: the configuration is in force, but some worker has not applied it yet; problems names the workers.
    unchanged: it took effect without any difference.
    """

    ok: bool
    generation: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unsafe: bool = False
    changes: tuple[str, ...] = ()
    incomplete: bool = False
    unchanged: bool = False


class UpgradeOutcome(NamedTuple):
    """The result of an upgrade. pid: of the process that serves now. problems: why it is still the old process.

    warnings: connections that the change affects.
    """

    ok: bool
    pid: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Incomplete(QlbError):
    """An error: a change is in force, but some worker has not applied it."""


class Control(Protocol):
    """The commands of a daemon."""

    async def reload(self, *, force: bool = False) -> ReloadOutcome:
        """Reload the configuration. A wrong one changes nothing, and neither does an unsafe one unless forced."""

    async def drain(self, name: str) -> None:
        """Stop new connections to a backend. Raises KeyError if there is no backend of that name."""

    async def undrain(self, name: str) -> None:
        """Allow new connections to a backend again. Raises KeyError if there is no backend of that name."""

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:
        """Return the plane's decision about a datagram. Raises QlbError if the plane cannot be asked."""

    async def configuration(self, *, with_defaults: bool) -> dict[str, object]:
        """Return the configuration in force without secrets, and its generation. with_defaults: with every key."""

    async def upgrade(self) -> UpgradeOutcome:
        """Hand over to a new process that runs the program and configuration on disk, and end this one."""


class Commands:
    """The HTTP commands of one daemon."""

    def __init__(self, control: Control, read: Callable[[], Reading]) -> None:
        """read: takes a reading, for the names of the backends."""
        self._control = control
        self._read = read

    def find(self, path: Sequence[str]) -> Command | None:
        """Return the command of a path; None if there is none. path: its parts, decoded."""
        match path:
            case ["reload"]:
                return self._reload
            case ["reload", "force"]:
                return lambda: self._reload(force=True)
            case ["config"]:
                return lambda: self._configuration(with_defaults=False)
            case ["config", "effective"]:
                return lambda: self._configuration(with_defaults=True)
            case ["upgrade"]:
                return self._upgrade
            case ["drain", name]:
                return lambda: self._set_state(name, "draining", self._control.drain)
            case ["undrain", name]:
                return lambda: self._set_state(name, "active", self._control.undrain)
            case ["explain", datagram, client]:
                return lambda: self._explain(datagram, client)
            case _:
                return None

    async def _explain(self, datagram: str, client: str) -> web.Response:
        """Explain a datagram, given in hexadecimal. client: ADDR:PORT."""
        try:
            decision = await self._control.explain(bytes.fromhex(datagram), endpoint(service=False).parse(client))
        except (OSError, QlbError, ValueError) as error:
            return json_response(HTTPStatus.UNPROCESSABLE_ENTITY, {"ok": False, "error": str(error)})
        return json_response(HTTPStatus.OK, {"ok": True, **decision})

    async def _configuration(self, *, with_defaults: bool) -> web.Response:
        answer = await self._control.configuration(with_defaults=with_defaults)
        # Beside the event loop: with 65,536 backends it takes a third of a second.
        return page_response(await asyncio.to_thread(json_body, answer), "application/json")

    async def _reload(self, *, force: bool = False) -> web.Response:
        try:
            outcome = await self._control.reload(force=force)
        except QlbError as error:
            return _refused(error)
        return json_response(_status_of(outcome), outcome._asdict())

    async def _upgrade(self) -> web.Response:
        outcome = await self._control.upgrade()
        status = HTTPStatus.OK if outcome.ok else HTTPStatus.UNPROCESSABLE_ENTITY
        return json_response(status, outcome._asdict())

    async def _set_state(self, name: str, state: str, change: Callable[[str], Awaitable[None]]) -> web.Response:
        try:
            await change(name)
        except KeyError:
            return self._unknown(name)
        except QlbError as error:
            return _refused(error)
        return json_response(HTTPStatus.OK, {"ok": True, "backend": name, "state": state})

    def _unknown(self, name: str) -> web.Response:
        names = [row.name for row in self._read().backends if row.state != REMOVED]
        error = f"no backend {name!r}; known backends: {', '.join(names) or 'none'}"
        return json_response(HTTPStatus.NOT_FOUND, {"ok": False, "error": error, "backends": names})


def _status_of(outcome: ReloadOutcome) -> HTTPStatus:
    if outcome.incomplete:
        return HTTPStatus.SERVICE_UNAVAILABLE
    if outcome.ok:
        return HTTPStatus.OK
    return HTTPStatus.CONFLICT if outcome.unsafe else HTTPStatus.UNPROCESSABLE_ENTITY


def _refused(error: QlbError) -> web.Response:
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    answer = {"ok": False, "error": str(error), "problems": problems}
    status = HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, Incomplete) else HTTPStatus.UNPROCESSABLE_ENTITY
    return json_response(status, answer)
