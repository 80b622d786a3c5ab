"""From the configuration to the sources of backends that it names."""

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

from qlb.addresses import Endpoint
from qlb.config.backends_file import read_backends
from qlb.config.model import Config, DiscoverySource
from qlb.discovery.dns import DnsSettings, DnsSource
from qlb.discovery.file import FileSource
from qlb.discovery.kubernetes import KubernetesSettings, KubernetesSource
from qlb.discovery.source import Limits, Source
from qlb.local_addresses import find_loops, local_hosts
from qlb.routing.backends import Backend


def sources(config: Config) -> tuple[Source, ...]:
    """Return every source, new. Raises ConfigError where this machine cannot ask one."""
    return tuple(_sources(config))


def _sources(config: Config) -> Iterator[Source]:
    for one in config.discovery:
        if one.file is not None:
            yield FileSource(one.name, one.file, partial(_read, config=config, source=one))
        elif one.kubernetes is not None:
            yield KubernetesSource(_kubernetes(one, one.kubernetes, config))
        elif one.dns is not None:
            yield DnsSource(_dns(one, one.dns, config))


def _read(path: Path, *, config: Config, source: DiscoverySource) -> tuple[Backend, ...]:
    return read_backends(path, config, source.networks, source.max_backends)


def _dns(one: DiscoverySource, host: str, config: Config) -> DnsSettings:
    return DnsSettings(
        name=one.name,
        host=host,
        record=one.record,
        port=one.port or 0,
        resolvers=one.resolvers,
        limits=_limits(one, config),
        weight=one.weight,
        min_s=one.min_interval,
        max_s=max(one.min_interval, one.max_interval),
    )


def _kubernetes(one: DiscoverySource, path: str, config: Config) -> KubernetesSettings:
    namespace, _, service = path.partition("/")
    return KubernetesSettings(
        name=one.name,
        namespace=namespace,
        service=service,
        port=one.port or 0,
        port_name=one.port_name or "",
        kubeconfig=one.kubeconfig,
        limits=_limits(one, config),
        weight=one.weight,
        retry_s=one.min_interval,
    )


def _limits(one: DiscoverySource, config: Config) -> Limits:
    return Limits(
        networks=one.networks,
        find_own=partial(_find_own, listen=config.listen),
        max_backends=one.max_backends,
    )


def _find_own(places: Iterable[Endpoint], *, listen: tuple[Endpoint, ...]) -> Collection[Endpoint]:
    return find_loops(places, listen, local_hosts).keys()
