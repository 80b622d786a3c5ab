"""Backends by Kubernetes: the endpoints of a Service. The source watches their changes.

lightkube implements the protocol: the pod's own account or a kubeconfig, TLS, and renewed tokens.

Spec: Kubernetes API, discovery.k8s.io/v1, EndpointSlice.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
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
"""The longest wait for a change. After it the source opens a new connection and reads the token again."""
_SETTLE_S: Final = 0.2
"""Changes within this time after the first one make one answer: a rollout changes several slices."""
_SERVICE_OF_SLICE: Final = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """One source. port: of every backend; 0 = the port in the slices. port_name: of that port; "" = the only one.

    kubeconfig: the way to the API server; None = the pod's account, $KUBECONFIG or ~/.kube/config, the first that
    exists. weight: of each backend. retry_s: from an error to the next question.
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
    """A Service whose ready endpoints are backends. If none is ready, those that terminate but still serve are."""

    kind: Final = "kubernetes"
    patience: Final = 1

    def __init__(self, settings: KubernetesSettings) -> None:
        """Raises ConfigError if lightkube is not installed."""
        if find_spec("lightkube") is None:
            raise ConfigError("discovery by kubernetes needs its extra: pip install 'qlb[kubernetes]'")
        self._settings = settings
        self._slices: dict[str, EndpointSlice] = {}
        self._version: str | None = None
        self._not_followed = 0
        self._why = ""

    @property
    def name(self) -> str:
        """Its name in the configuration."""
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
        """Do nothing: the first question reads every slice."""

    async def ask(self) -> Answer:
        """Read every slice the first time. Later, wait until one has changed, at most a minute."""
        try:
            again_s = await self._refresh()
        except (
            Exception
        ) as error:  # a file, a certificate or an answer may cause any error, and none may end the source
            self._version = None
            service = f"{self._settings.namespace}/{self._settings.service}"
            raise DiscoveryError(f"Service {service}: {type(error).__name__}: {error}") from error
        ports = {name: self._port(one) for name, one in self._slices.items()}
        backends, left_out = choose(self.name, self._endpoints(ports), self._settings.limits)
        remarks = [*self._remarks_on(ports), *([] if backends or left_out else self._nothing())]
        if self._not_followed > 1:  # a single failure means only that the version was too old
            text = f"changes cannot be watched, so all slices are read again every {self.retry_s:g} s: {self._why}"
            remarks.append(Remark("not-followed", text))
        return Answer(backends, again_s, (*remarks, *left_out))

    @property
    def _labels(self) -> dict[str, Any]:
        return {_SERVICE_OF_SLICE: self._settings.service}

    async def _refresh(self) -> float:
        """Update the slices. Return the seconds until the next question."""
        await asyncio.to_thread(import_module, "lightkube")
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
            raise DiscoveryError(f"{path} is not a regular file")  # reading a pipe would block the event loop
        config = KubeConfig.from_env() if path is None else KubeConfig.from_file(path)
        # Ignore the proxies of the environment: they lead to the Internet and would receive the token.
        return AsyncClient(config, trust_env=False)

    async def _read(self, client: "AsyncClient") -> None:
        from lightkube.resources.discovery_v1 import EndpointSlice

        found = client.list(EndpointSlice, namespace=self._settings.namespace, labels=self._labels)
        self._slices = {_name(one): one async for one in found}
        self._version = found.resourceVersion

    async def _could_follow(self, client: "AsyncClient", version: str) -> bool:
        """Watch changes. Return False if that failed: a version can be too old, and watching can be forbidden."""
        try:
            await self._follow(client, version)
        except Exception as error:  # as in ask(): reading all slices again succeeds, or fails for the same reason
            self._not_followed += 1
            self._why = f"{type(error).__name__}: {error}"
            return False
        self._not_followed = 0
        return True

    async def _follow(self, client: "AsyncClient", version: str) -> None:
        """Wait for changes after a version and apply them."""
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
        assert one.metadata is not None, "every object has metadata"
        self._version = one.metadata.resourceVersion
        if kind == "DELETED":
            self._slices.pop(_name(one), None)
        else:
            self._slices[_name(one)] = one

    def _port(self, one: "EndpointSlice") -> int | str:
        """Return the port of a slice's endpoints, or a text that explains why there is none."""
        settings = self._settings
        if settings.port:
            return settings.port
        ports = [port for port in one.ports or () if port.protocol == "UDP" and port.port]
        if settings.port_name:
            ports = [port for port in ports if port.name == settings.port_name]
        if len(ports) == 1 and ports[0].port:
            return ports[0].port
        wanted = f"UDP port {settings.port_name!r}" if settings.port_name else "UDP port"
        return f"{len(ports)} UDP ports; set port_name to select one" if ports else f"no {wanted}"

    def _remarks_on(self, ports: dict[str, int | str]) -> Iterator[Remark]:
        """Yield a remark if some slices have no usable port."""
        without = sorted(name for name, port in ports.items() if isinstance(port, str))
        if without:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            yield Remark("port", f"EndpointSlice {without[0]}{more}: {ports[without[0]]}")

    def _nothing(self) -> Iterator[Remark]:
        """Yield a remark that explains why there is no backend."""
        what = "has no ready endpoints" if self._slices else "has no EndpointSlices: does the Service exist?"
        yield Remark("empty", f"no backends: Service {self._settings.namespace}/{self._settings.service} {what}")

    def _endpoints(self, ports: dict[str, int | str]) -> list[Found]:
        """Return the ready endpoints; if there are none, those that terminate but still serve."""
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
    assert one.metadata is not None, "every object has metadata"
    return one.metadata.name or ""


def _pod(endpoint: "PodEndpoint") -> str:
    """Return a text that identifies the pod of an endpoint; "" if the endpoint names no pod.

    A pod with an IPv4 and an IPv6 address is in two slices, one for each family.
    """
    pod = endpoint.targetRef
    if pod is None or pod.kind != "Pod" or not (pod.uid or pod.name):
        return ""
    return f"pod {pod.namespace}/{pod.name}/{pod.uid}"


def _hosts(endpoint: "PodEndpoint") -> Iterator[str]:
    """Yield the first address of an endpoint, if it is an IP address and no host name."""
    for text in (endpoint.addresses or ())[:1]:
        if (host := canonical(text)) is not None:
            yield host
