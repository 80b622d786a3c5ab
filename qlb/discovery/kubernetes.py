"""Backends by Kubernetes: the endpoints of a Service, followed as they change.

lightkube does the talking: the pod's own account or a kubeconfig, TLS, tokens that are renewed.

Spec: Kubernetes API, discovery.k8s.io/v1, EndpointSlice.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from qlb.discovery.source import Answer, DiscoveryError, Found, Limits, Remark, canonical, choose, of_one_server
from qlb.errors import ConfigError
from qlb.routing.backends import Backend

if TYPE_CHECKING:
    from lightkube import AsyncClient
    from lightkube.models.discovery_v1 import Endpoint as PodEndpoint
    from lightkube.resources.discovery_v1 import EndpointSlice

_FOLLOW_S: Final = 60.0
"""So long changes are waited for at once; then the connection is a new one, with a token that may be new too."""
_SETTLE_S: Final = 0.2
"""What comes within this time of a change belongs to it: a rollout changes several slices."""
_SERVICE_OF_SLICE: Final = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """One source. port: of every backend, 0 for the one that slices tell. port_name: which of those; "" = the only one.

    kubeconfig: how the API server is reached; None = as the pod's account, by $KUBECONFIG or by ~/.kube/config, the
    first that is there. weight: of each backend. retry_s: from an error to the next question.
    """

    name: str
    namespace: str
    service: str
    port: int
    port_name: str
    kubeconfig: Path | None
    limits: Limits
    weight: int
    retry_s: float


class KubernetesSource:
    """A Service whose endpoints are backends while they are ready; where none is, those that serve until they end."""

    kind: Final = "kubernetes"
    patience: Final = 1

    def __init__(self, settings: KubernetesSettings) -> None:
        """Raises ConfigError where lightkube is missing."""
        try:
            import lightkube  # noqa: F401
        except ImportError as error:
            raise ConfigError("discovery by kubernetes needs its extra: pip install 'qlb[kubernetes]'") from error
        self._settings = settings
        self._slices: dict[str, EndpointSlice] = {}
        self._version: str | None = None
        self._not_followed = 0
        self._why = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self._settings.name

    @property
    def most(self) -> int:
        """The most backends that it may have."""
        return self._settings.limits.max_backends

    @property
    def retry_s(self) -> float:
        """Seconds from an error to the next question."""
        return self._settings.retry_s

    def recall(self, backends: Sequence[Backend]) -> None:
        """Nothing to learn: every slice is read anew."""

    async def ask(self) -> Answer:
        """Read every slice the first time; later wait until one has changed, for a minute at most."""
        try:
            again_s = await self._refresh()
        except Exception as error:  # Of whatever kind: a file, a certificate, an answer. Nothing of it ends the daemon.
            self._version = None
            service = f"{self._settings.namespace}/{self._settings.service}"
            raise DiscoveryError(f"Service {service}: {type(error).__name__}: {error}") from error
        ports = {name: self._port(one) for name, one in self._slices.items()}
        backends, left_out = choose(self.name, self._places(ports), self._settings.limits)
        remarks = [*self._remarks_on(ports), *([] if backends or left_out else self._nothing())]
        if self._not_followed > 1:  # once is a version that was too old
            text = f"changes cannot be followed, all is read again each {self.retry_s:g} s: {self._why}"
            remarks.append(Remark("not-followed", text))
        return Answer(backends, again_s, (*remarks, *left_out))

    @property
    def _labels(self) -> dict[str, Any]:
        return {_SERVICE_OF_SLICE: self._settings.service}

    async def _refresh(self) -> float:
        """Bring what is known up to date; return in how many seconds to ask again."""
        client = self._client()
        try:
            if self._version is not None and await self._could_follow(client, self._version):
                return 0.0
            again_s = 0.0 if self._version is None else self.retry_s
            await self._read(client)
            return again_s
        finally:
            await client.close()

    def _client(self) -> "AsyncClient":
        from lightkube import AsyncClient, KubeConfig

        path = self._settings.kubeconfig
        if path is not None and path.exists() and not path.is_file():
            raise DiscoveryError(f"{path} is not a regular file")  # reading a pipe would stop the daemon's event loop
        config = KubeConfig.from_env() if path is None else KubeConfig.from_file(path)
        # Without the proxies of the environment: they lead to the Internet, and would be handed the token.
        return AsyncClient(config, trust_env=False)

    async def _read(self, client: "AsyncClient") -> None:
        from lightkube.resources.discovery_v1 import EndpointSlice

        found = client.list(EndpointSlice, namespace=self._settings.namespace, labels=self._labels)
        self._slices = {_name(one): one async for one in found}
        self._version = found.resourceVersion

    async def _could_follow(self, client: "AsyncClient", version: str) -> bool:
        """Follow, and say whether that went well: a version can be too old, and watching can be forbidden."""
        try:
            await self._follow(client, version)
        except Exception as error:  # as in ask(): reading all of it again will do, or fail for the same reason
            self._not_followed += 1
            self._why = f"{type(error).__name__}: {error}"
            return False
        self._not_followed = 0
        return True

    async def _follow(self, client: "AsyncClient", version: str) -> None:
        """Wait for changes after a version, and take those that come."""
        from lightkube.resources.discovery_v1 import EndpointSlice

        loop, has_changed = asyncio.get_running_loop(), False
        watching = client.watch(
            EndpointSlice, namespace=self._settings.namespace, labels=self._labels, resource_version=version
        )
        async with aclosing(cast("AsyncGenerator[tuple[str, EndpointSlice], None]", watching)) as changes:
            try:
                async with asyncio.timeout(_FOLLOW_S) as limit:
                    async for kind, one in changes:
                        self._take(kind, one)
                        if not has_changed:
                            has_changed = True
                            limit.reschedule(loop.time() + _SETTLE_S)
            except TimeoutError:
                return

    def _take(self, kind: str, one: "EndpointSlice") -> None:
        assert one.metadata is not None, "every object has them"
        self._version = one.metadata.resourceVersion
        if kind == "DELETED":
            self._slices.pop(_name(one), None)
        else:
            self._slices[_name(one)] = one

    def _port(self, one: "EndpointSlice") -> int | str:
        """Return the port of a slice's endpoints, or why there is none."""
        settings = self._settings
        if settings.port:
            return settings.port
        ports = [port for port in one.ports or () if port.protocol == "UDP" and port.port]
        if settings.port_name:
            ports = [port for port in ports if port.name == settings.port_name]
        if len(ports) == 1 and ports[0].port:
            return ports[0].port
        wanted = f"UDP port {settings.port_name!r}" if settings.port_name else "UDP port"
        return f"{len(ports)} UDP ports, and port_name does not say which" if ports else f"no {wanted}"

    def _remarks_on(self, ports: dict[str, int | str]) -> Iterator[Remark]:
        """Yield a remark where slices have no port that packets could go to."""
        without = sorted(name for name, port in ports.items() if isinstance(port, str))
        if without:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            yield Remark("port", f"EndpointSlice {without[0]}{more}: {ports[without[0]]}")

    def _nothing(self) -> Iterator[Remark]:
        """Yield why there is no backend."""
        what = "has no ready endpoints" if self._slices else "has no EndpointSlices: is there such a Service?"
        yield Remark("empty", f"no backends: Service {self._settings.namespace}/{self._settings.service} {what}")

    def _places(self, ports: dict[str, int | str]) -> list[Found]:
        """Return where those are that are ready; if nobody is, those that end but serve until then."""
        ready: dict[tuple[str, int], list[str]] = {}
        ending: dict[tuple[str, int], list[str]] = {}
        for name, one in self._slices.items():
            port = ports[name]
            if isinstance(port, str):
                continue
            for endpoint in one.endpoints or ():
                conditions = endpoint.conditions
                if conditions is None or conditions.ready is not False:
                    hosts = ready
                elif conditions.serving is not False and conditions.terminating:
                    hosts = ending
                else:
                    continue
                for host in _hosts(endpoint):
                    hosts.setdefault((_pod(endpoint) or host, port), []).append(host)
        settings = self._settings
        return [
            of_one_server(hosts, port, settings.weight, settings.limits.networks)
            for (_, port), hosts in (ready or ending).items()
        ]


def _name(one: "EndpointSlice") -> str:
    assert one.metadata is not None, "every object has them"
    return one.metadata.name or ""


def _pod(endpoint: "PodEndpoint") -> str:
    """Return what identifies the pod of an endpoint; "" where the endpoint names none.

    A pod with an IPv4 and an IPv6 address is in two slices, one for each family.
    """
    pod = endpoint.targetRef
    if pod is None or pod.kind != "Pod" or not (pod.uid or pod.name):
        return ""
    return f"pod {pod.namespace}/{pod.name}/{pod.uid}"


def _hosts(endpoint: "PodEndpoint") -> Iterator[str]:
    """Yield the IP address of an endpoint: its first; a host name is none."""
    for text in (endpoint.addresses or ())[:1]:
        if (host := canonical(text)) is not None:
            yield host
