"""A minimal Kubernetes API server for installing charts with Helm: it records created objects and runs nothing."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import yaml
from aiohttp import web

_KINDS: Final = {
    "v1": {"secrets": "Secret", "configmaps": "ConfigMap", "services": "Service", "serviceaccounts": "ServiceAccount"},
    "apps/v1": {"daemonsets": "DaemonSet"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
    "monitoring.coreos.com/v1": {"servicemonitors": "ServiceMonitor"},
}
_OF_HELM: Final = "application/vnd.kubernetes.protobuf"
"""Content type of Helm's own release records; the objects of a chart are sent as JSON."""


class Api:
    """The server. created: every object of the chart."""

    def __init__(self) -> None:
        """Start without objects."""
        self.url = ""
        self.created: list[dict[str, Any]] = []

    @property
    def kubeconfig(self) -> str:
        """The kubeconfig with which a client reaches the server."""
        cluster = {"name": "fake", "cluster": {"server": self.url}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
        found: str = yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [cluster],
                "contexts": [context],
                "users": [{"name": "fake", "user": {}}],
                "current-context": "fake",
            }
        )
        return found

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any request."""
        path = request.path.strip("/")
        if request.method in ("POST", "PUT"):
            octets, kind = await request.read(), request.content_type
            if kind != _OF_HELM:
                self.created.append(json.loads(octets))
            return web.Response(body=octets, content_type=kind, status=201)
        if path == "version":
            return web.json_response({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
        if path == "api":
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        if path == "apis":
            groups = [_group(version) for version in _KINDS if "/" in version]
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        version = path.removeprefix("apis/").removeprefix("api/")
        if version in _KINDS:
            return web.json_response(
                {"kind": "APIResourceList", "groupVersion": version, "resources": _resources(_KINDS[version])}
            )
        if path.endswith("/secrets"):
            return web.json_response({"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []})
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        return web.json_response(missing, status=404)


@asynccontextmanager
async def api_server() -> AsyncIterator[Api]:
    """Run a server on loopback until the end of the block."""
    api, app = Api(), web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        api.url = f"http://{host}:{port}"
        yield api
    finally:
        await runner.cleanup()


def _group(version: str) -> dict[str, object]:
    named = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [named], "preferredVersion": named}


def _resources(kinds: dict[str, str]) -> list[dict[str, object]]:
    verbs = ["create", "get", "list", "patch", "update", "delete"]
    return [
        {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
        for name, kind in kinds.items()
    ]
