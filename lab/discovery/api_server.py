"""A minimal Kubernetes API server for a watcher of EndpointSlices: lists, watches, tokens, TLS and failures."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml
from aiohttp import web

from qlb.demo.http3 import make_certificate

NAMESPACE: Final = "voice"
SERVICE: Final = "agents"
QUIC: Final = {"name": "quic", "protocol": "UDP", "port": 4433}
READY: Final = {"ready": True, "serving": True, "terminating": False}
UNREADY: Final = {"ready": False, "serving": False, "terminating": False}
ENDING: Final = {"ready": False, "serving": True, "terminating": True}
_LABEL: Final = "kubernetes.io/service-name"


@dataclass
class ApiServer:
    """The slices of one namespace. token: a client's credential. mood: failures, by "list" and "watch".

    mood: broken (500), nonsense or forbidden (403). asked: the requests, "list" or "watch".
    """

    url: str = ""
    authority: bytes = b""
    token: str = "a token"
    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    mood: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    version: int = 1
    oldest: int = 1
    _events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _watched: asyncio.Event = field(default_factory=asyncio.Event)
    _watches: set[asyncio.Task[Any]] = field(default_factory=set)

    async def put(
        self,
        name: str,
        endpoints: dict[str, dict[str, bool] | None],
        *,
        ports: list[dict[str, Any]] | None = None,
        kind: str = "IPv4",
        service: str = SERVICE,
        pods: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Create or replace a slice with these addresses and conditions. pods: host → name of its pod."""
        operation = "MODIFIED" if name in self.slices else "ADDED"
        found: list[dict[str, Any]] = [
            {"addresses": [host], "conditions": conditions} for host, conditions in endpoints.items()
        ]
        for one in found:
            if (pod := pods.get(next(iter(one["addresses"] or ("",))))) is not None:
                one["targetRef"] = {"kind": "Pod", "name": pod, "namespace": NAMESPACE, "uid": f"uid of {pod}"}
        self.slices[name] = {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {_LABEL: service}},
            "addressType": kind,
            "endpoints": found,
            "ports": [QUIC] if ports is None else ports,
        }
        await self._tell(operation, name)

    async def delete(self, name: str) -> None:
        """Delete a slice."""
        await self._tell("DELETED", name)
        del self.slices[name]

    def forget(self) -> None:
        """Forget all past events: a watch from an earlier version gets status 410 (gone)."""
        self.version += 1
        self.oldest = self.version

    def hang_up(self) -> None:
        """End every watch."""
        for task in self._watches:
            task.cancel()

    async def until_watched(self) -> None:
        """Wait until a client starts a watch."""
        self._watched.clear()
        await self._watched.wait()

    def write_kubeconfig(self, folder: Path) -> Path:
        """Write the kubeconfig of a client, with the token in a separate file as in a pod."""
        (folder / "token").write_text(self.token)
        cluster = {"server": self.url, "certificate-authority-data": base64.b64encode(self.authority).decode()}
        path = folder / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "kind": "Config",
                    "apiVersion": "v1",
                    "clusters": [{"name": "it", "cluster": cluster}],
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "qlb"}}],
                    "users": [{"name": "qlb", "user": {"tokenFile": str(folder / "token")}}],
                    "current-context": "it",
                }
            )
        )
        return path

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a list or a watch."""
        what = "watch" if request.query.get("watch") == "true" else "list"
        self.asked.append(what)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        match self.mood.get(what):
            case "broken":
                return _status(500, "etcdserver: request timed out")
            case "forbidden":
                return _status(403, "endpointslices.discovery.k8s.io is forbidden")
            case "nonsense":
                return web.Response(text='{"items": [{"metadata": 7', content_type="application/json")
        _, _, service = request.query["labelSelector"].partition("=")
        return await self._watch(request, service) if what == "watch" else self._list(service)

    def _list(self, service: str) -> web.Response:
        items = [one for one in self.slices.values() if one["metadata"]["labels"][_LABEL] == service]
        metadata = {"resourceVersion": str(self.version)}
        kind = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1"}
        return web.json_response({**kind, "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request, service: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._watched.set()
        if (task := asyncio.current_task()) is not None:
            self._watches.add(task)
            task.add_done_callback(self._watches.discard)
        seen = int(request.query["resourceVersion"])
        if seen < self.oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(_line("ERROR", gone))
            return response
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: seen < self.version)  # noqa: B023
                events = [event for event in self._events if event[0] > seen]
                seen = self.version
            for _, kind, one in events:
                if one["metadata"]["labels"][_LABEL] == service:
                    await response.write(_line(kind, one))

    async def _tell(self, kind: str, name: str) -> None:
        self.version += 1
        one = self.slices[name]
        one["metadata"]["resourceVersion"] = str(self.version)
        async with self._changed:
            self._events.append((self.version, kind, json.loads(json.dumps(one))))
            self._changed.notify_all()


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[ApiServer]:
    """Run a server with an empty namespace, over TLS. folder: for its certificate and key."""
    certificate = make_certificate()
    paths = certificate.write(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    server, app = ApiServer(authority=certificate.pem), web.Application()
    app.router.add_get(f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        host, port = runner.addresses[0][:2]
        server.url = f"https://{host}:{port}"
        yield server
    finally:
        await runner.cleanup()


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "code": code, "message": message}, status=code)


def _line(kind: str, one: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": one}).encode() + b"\n"
