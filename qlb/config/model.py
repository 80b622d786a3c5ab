"""The configuration as frozen dataclasses: one attribute for each key of the YAML, with its description for the schema.

Here: the service (addresses, CID configs, backends, discovery) and Config, the whole file. The sections that set how
one daemon works are in qlb.config.sections.

The constructors check nothing: qlb.config.validate reads and checks each value. So only load() and load_text() create
a complete Config. A null equals an absent key. The rules between fields are in qlb.config.rules.
Every docstring below a field is its text in `qlb schema`; a reload applies a change unless the text says otherwise.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal, get_args

from qlb.addresses import Endpoint, Network
from qlb.cid.params import (
    MAX_CID_BYTES,
    MAX_CONFIG_ID,
    MAX_NONCE_BYTES,
    MAX_SERVER_ID_BYTES,
    MIN_NONCE_BYTES,
    MIN_SERVER_ID_BYTES,
)
from qlb.config.fields import Section, Table, field
from qlb.config.names import (
    DNS_NAME,
    HEX_KEY,
    KEY_FILE,
    NAME,
    NETWORK,
    PATH,
    PORT_NAME,
    RESOLVER,
    SERVER_ID,
    SERVICE,
    SOURCE_NAME,
    endpoint,
)
from qlb.config.scalars import BOOLEAN, choice, duration, whole_number
from qlb.config.sections import (
    LISTEN_ADDRESS,
    Admin,
    Drain,
    Fallback,
    Forwarding,
    Health,
    Logging,
    Rotation,
)
from qlb.routing.backends import MAX_BACKENDS, BackendState

DnsRecord = Literal["address", "a", "aaaa", "srv"]
ServerIdFrom = Literal["none", "address"]
CidState = Literal["staged", "active", "retiring"]

CONFIG_ID: Final = whole_number(0, MAX_CONFIG_ID)
SERVER_ID_LENGTH: Final = whole_number(MIN_SERVER_ID_BYTES, MAX_SERVER_ID_BYTES, "octets")
NONCE_LENGTH: Final = whole_number(MIN_NONCE_BYTES, MAX_NONCE_BYTES, "octets")
CID_LENGTH: Final = whole_number(1 + MIN_SERVER_ID_BYTES + MIN_NONCE_BYTES, MAX_CID_BYTES, "octets")
BACKEND_ADDRESS: Final = endpoint(service=False, every="write the address of the server too, 10.0.0.11:PORT")
DNS_RECORD: Final = choice(get_args(DnsRecord))
SERVER_ID_FROM: Final = choice(get_args(ServerIdFrom))


def _no_server_ids() -> Mapping[int, tuple[bytes, ...]]:
    return MappingProxyType({})


def read_only(value: Mapping[int, tuple[bytes, ...]]) -> Mapping[int, tuple[bytes, ...]]:
    """Return a read-only view of a mapping."""
    return MappingProxyType(value)


SERVER_IDS: Final = Table(
    CONFIG_ID,
    SERVER_ID,
    read_only,
    {
        "type": "object",
        "$comment": "mapping: config ID to server ID, or to a list of server IDs",
        "propertyNames": {"pattern": f"^0*[0-{MAX_CONFIG_ID}]$"},
        "additionalProperties": {
            "anyOf": [dict(SERVER_ID.schema), {"type": "array", "items": dict(SERVER_ID.schema), "minItems": 1}]
        },
    },
)


class CidConfig(Section):
    """One QUIC-LB configuration, equal on every balancer and on the servers that issue from it.

    Rotation: add the new one here first, then give it to the servers. Remove the old one when no packet carries its
    IDs any more (`qlb status` shows when one was last seen). Never change the key or the lengths under a config ID
    that live connections use: these connections would be lost when their address changes.
    """

    config_id: Annotated[int, CONFIG_ID] = field(examples=[1])
    """The first three bits of every connection ID of this CID config. 0 to 6, each once; 7 is reserved. Required. Avoid
    0 beside servers that do not support QUIC-LB: the IDs of some stacks (nginx) begin with zeros, and 0 would decode
    them."""
    server_id_length: Annotated[int, SERVER_ID_LENGTH] = field(examples=[4])
    """Octets of a server ID. 1 to 15; the sum with nonce_length is at most 19. Required. Below 3, clients' random first
    IDs match a server ID by chance too often."""
    nonce_length: Annotated[int, NONCE_LENGTH] = field(examples=[12])
    """Octets of the nonce, which makes each ID unique. 4 to 18; the sum with server_id_length is at most 19. Required.
    A sum of 16 needs one AES block for each ID, another sum three or four. A server can issue 256^nonce_length IDs.
    Below 6, a server soon repeats IDs after restarts (`qlb check` warns)."""
    key: Annotated[bytes | None, HEX_KEY] = field(default=None, repr=False)
    """The AES-128 key, 32 hex digits (`qlb keygen`). A secret: prefer key_file. Default: none; then every packet shows
    its server ID to any observer on the path. Not together with key_file. In a loaded configuration this attribute
    contains the key from either source."""
    key_file: Annotated[Path | None, KEY_FILE] = field(default=None, examples=["keys/1.hex"])
    """A file that contains the key as 32 hex digits. Relative to this file. Its owner must be root, the user that runs
    qlb, or the owner of this file; its group may read it; others must have no access to it (chmod o-rwx, go-w), unless
    it is a secret that Docker or Kubernetes mounts. credential:NAME is a credential of systemd (LoadCredential), which
    systemd reads only when the unit starts. Each reload reads the file again. Default: none."""
    cid_length: Annotated[int | None, CID_LENGTH] = field(default=None, examples=[17])
    """Octets of the connection IDs that servers issue, first octet included: from 1 + server_id_length + nonce_length
    to 20. Default: 1 + server_id_length + nonce_length. Octets beyond that are random. The balancer also decodes longer
    IDs. Stacks that parse short headers with one fixed length (aioquic) need the same value in all cid_configs."""
    length_self_encoded: Annotated[bool, BOOLEAN] = False
    """true: the low five bits of the first octet encode the ID's length, and an ID in a long header with another length
    is unroutable. Use it only if all servers encode exactly this length: IDs to which a server appends octets do not
    match. Default: false."""
    state: Annotated[CidState, choice(get_args(CidState))] = "active"
    """The phase of a rotation: staged (balancers decode it, servers do not have it yet), active (servers issue from it)
    or retiring (servers issue from another one already). Balancers decode all three alike. `qlb server-config` prints
    the active ones, and `qlb rotate` changes the state. Default: active."""


class BackendConfig(Section):
    """One server."""

    name: Annotated[str, NAME] = field(examples=["agent-a"])
    """The name in metrics, logs and `qlb drain`: 1 to 64 letters, digits and . _ : -, each once. Required. The fallback
    hashes names: for connections with unroutable IDs, a renamed backend is a new one."""
    address: Annotated[Endpoint, BACKEND_ADDRESS] = field(examples=["127.0.0.1:5001"])
    """The address to forward packets to: an IP literal and a port from 1 to 65535, 10.0.0.1:4433 or [2001:db8::1]:4433.
    An IPv4-mapped address counts as IPv4. An address of this machine with a port of `listen` is an error, because
    packets would loop. Required. A change moves the live connections of this backend to the new address at once."""
    server_ids: Annotated[Mapping[int, tuple[bytes, ...]], SERVER_IDS] = field(
        default_factory=_no_server_ids, examples=[{1: "c0ffee01"}]
    )
    """Config ID → this server's ID in hex, or a list of several: exactly server_id_length octets, and different from
    every other backend's under that config ID. Default: none, for a server without QUIC-LB; only flow tables and the
    fallback then route its packets."""
    weight: Annotated[int, whole_number(0, 65535)] = 1
    """Its share of new connections (the fallback), relative to the other weights. 0 to 65535; 0 = none. Default: 1.
    A change moves about its share of the connections with unroutable IDs, and no others."""
    state: Annotated[BackendState, choice(BackendState)] = BackendState.ACTIVE
    """active, or draining: it continues to serve its connections and receives no new ones. Default: active."""


class DiscoverySource(Section):
    """One source of backends besides `backends`: a DNS name, a Kubernetes Service, or a file.

    A backend that a source no longer returns keeps its connections: it drains until no packet was forwarded to it for
    drain.quiet_period, and is then removed. `qlb reload` queries every source at once.
    """

    name: Annotated[str, SOURCE_NAME] = field(examples=["agents"])
    """The name in metrics and the log; the names of its backends begin with it (agents-10.0.0.5:4433). 1 to 16 letters,
    digits and . _ : -, each once. Required."""
    dns: Annotated[str | None, DNS_NAME] = field(default=None, examples=["agents.example.com"])
    """The DNS name whose addresses are backends. qlb queries it again when the TTL expires. A final dot makes no
    difference. Default: none. Each source has exactly one of dns, kubernetes and file. Needs the discovery extra
    (dnspython)."""
    kubernetes: Annotated[str | None, SERVICE] = field(default=None, examples=["voice/agents"])
    """NAMESPACE/SERVICE whose ready endpoints are backends. qlb watches its EndpointSlices. Default: none. Needs the
    kubernetes extra (lightkube)."""
    file: Annotated[Path | None, PATH] = field(default=None, examples=["backends.yaml"])
    """A file with a list of backends in the form of `backends`. qlb reads it again when it changes; an invalid file
    changes nothing. Relative to this file. Default: none."""
    record: Annotated[DnsRecord, DNS_RECORD] = "address"
    """dns: the records to query: address (A and AAAA), a, aaaa, or srv. srv records contain ports and weights.
    Default: address."""
    port: Annotated[int | None, whole_number(1, 65535)] = field(default=None, examples=[4433])
    """dns, kubernetes: the port of every backend, 1 to 65535. Required for dns unless record is srv. Default: none: the
    port in the srv records or EndpointSlices."""
    port_name: Annotated[str | None, PORT_NAME] = field(default=None, examples=["quic"])
    """kubernetes: the name of the Service's UDP port, if it has more than one. Default: none."""
    kubeconfig: Annotated[Path | None, PATH] = field(default=None, examples=["kubeconfig"])
    """kubernetes: a kubeconfig file, relative to this file. Default: none: the service account of the pod; outside a
    cluster, $KUBECONFIG or ~/.kube/config."""
    resolvers: tuple[Annotated[Endpoint, RESOLVER], ...] = field(default=(), examples=[["10.0.0.53"]])
    """dns: the servers to query, as addresses with or without a port (53). Default: none: those in /etc/resolv.conf,
    which qlb reads again when it changes."""
    networks: tuple[Annotated[Network, NETWORK], ...] = field(default=(), examples=[["10.0.0.0/16"]])
    """The networks that backends may be in. Other addresses in an answer are ignored; in a file they are an error.
    Required for dns and kubernetes. Default: none, which for a file allows every address."""
    server_id_from: Annotated[ServerIdFrom, SERVER_ID_FROM] = "none"
    """dns, kubernetes: the origin of server IDs: address (the last server_id_length octets of the backend's IP address,
    under every CID config; `qlb server-config CONFIG 10.0.0.5` prints what that server must load) or none.
    Default: none."""
    weight: Annotated[int, whole_number(0, 65535)] = 1
    """dns, kubernetes: the weight of each backend; srv records contain their own. 0 to 65535. Default: 1."""
    min_interval: Annotated[float, duration("100ms", "24h")] = 5.0
    """dns: the shortest time between two queries, however short a TTL is. dns, kubernetes: the time to wait after an
    error. 100ms to 24h. Default: 5s."""
    max_interval: Annotated[float, duration("100ms", "24h")] = 300.0
    """dns: the longest time between two queries, however long a TTL is. 100ms to 24h. Default: 300s."""
    max_backends: Annotated[int, whole_number(1, 16384)] = 1000
    """The number of backends to accept from this source; further ones are ignored. 1 to 16384. Default: 1000."""


class BackendsFile(Section):
    """The content of a file that `discovery` watches."""

    backends: tuple[BackendConfig, ...] = field(
        max_length=MAX_BACKENDS, examples=[[{"name": "agent-a", "address": "127.0.0.1:5001"}]]
    )
    """The backends, in the form of the configuration."""


class Config(Section):
    """One qlb daemon. Balancers of one service share cid_configs, backends and the fallback's hash_key."""

    listen: tuple[Annotated[Endpoint, LISTEN_ADDRESS], ...] = field(
        min_length=1, examples=[["127.0.0.1:4433", "[::1]:4433"]]
    )
    """The UDP addresses of the service: a list of one or more IP literals with ports, each once. 0.0.0.0 and [::] are
    all addresses of the machine, and port 0 selects a free port (for tests). Required. A change needs a restart."""
    cid_configs: tuple[CidConfig, ...] = ()
    """QUIC-LB configurations, up to seven. All are decoded at the same time. Default: none: every ID is unroutable."""
    backends: tuple[BackendConfig, ...] = field(
        max_length=MAX_BACKENDS, examples=[[{"name": "agent-a", "address": "127.0.0.1:5001"}]]
    )
    """The servers, up to 65536. Required. With an empty list qlb starts and drops every packet."""
    forwarding: Forwarding = Forwarding()
    """Forwarding of packets."""
    fallback: Fallback = Fallback()
    """How packets with unroutable IDs are forwarded."""
    drain: Drain = Drain()
    """The rule by which a draining backend counts as drained."""
    rotation: Rotation = Rotation()
    """How one QUIC-LB configuration replaces another."""
    discovery: tuple[DiscoverySource, ...] = ()
    """Sources of more backends. Default: none."""
    health: Health = Health()
    """Health probes of backends."""
    admin: Admin = Admin()
    """HTTP for monitoring, a Unix socket for control."""
    logging: Logging = Logging()
    """The log on stderr."""
    reload_on_change: Annotated[bool, BOOLEAN] = False
    """true: watch this file and the files that it names, for files that another program writes (Kubernetes). qlb looks
    at them each second, and reloads when a change has lasted one second more. It tries a configuration that it
    rejected as invalid again when one of the files changes. It tries one that it rejected as unsafe again when the
    connections in its way have been quiet for long enough; the backends in its way drain until then.
    Default: false."""
    shutdown_delay: Annotated[float, duration("0s", "24h")] = 0.0
    """The time from SIGTERM, when /readyz turns 503, to the end: during it, routers and other balancers can take over
    the traffic. 0s to 24h. Default: 0s."""
