"""The configuration as the YAML has it: frozen models, one attribute for each key, described for the schema.

The models are filled from text alone (qlb.config.scalars reads each value), so only load() and load_text()
make a whole one; the rules between fields are in qlb.config.rules. A null is the same as leaving the key out.
Every docstring below a field is its text in `qlb schema`: meaning, unit, range, default, effect of a change.
A change takes effect with a reload unless the text says otherwise.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from qlb.addresses import Endpoint, Network
from qlb.cid.params import (
    MAX_CID_BYTES,
    MAX_CONFIG_ID,
    MAX_NONCE_BYTES,
    MAX_SERVER_ID_BYTES,
    MIN_NONCE_BYTES,
    MIN_SERVER_ID_BYTES,
)
from qlb.config.scalars import (
    ALPN,
    BALANCER,
    BOOLEAN,
    DNS_NAME,
    HEX_KEY,
    INTERFACE,
    NAME,
    NETWORK,
    PATH,
    PORT_NAME,
    RESOLVER,
    SERVER_ID,
    SERVER_NAME,
    SERVICE,
    SOURCE_NAME,
    Size,
    choice,
    duration,
    endpoint,
    or_word,
    size,
    whole_number,
)
from qlb.routing.backends import MAX_BACKENDS, BackendState

Plane = Literal["auto", "batch", "asyncio", "xdp"]
Mode = Literal["proxy", "proxy-protocol", "ipip", "gue", "l2"]
DIRECT_RETURN: Final = ("ipip", "gue", "l2")
"""Modes in which backends answer clients directly; packets are recognised by their address, and nothing is bound."""
Attach = Literal["auto", "native", "generic"]
AllFailing = Literal["keep", "obey"]
Probe = Literal["quic", "handshake", "none"]
DnsRecord = Literal["address", "a", "aaaa", "srv"]
ServerIdFrom = Literal["none", "address"]
CidState = Literal["staged", "active", "retiring"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

CONFIG_ID: Final = whole_number(0, MAX_CONFIG_ID)
SERVER_ID_LENGTH: Final = whole_number(MIN_SERVER_ID_BYTES, MAX_SERVER_ID_BYTES, "octets")
NONCE_LENGTH: Final = whole_number(MIN_NONCE_BYTES, MAX_NONCE_BYTES, "octets")
CID_LENGTH: Final = whole_number(1 + MIN_SERVER_ID_BYTES + MIN_NONCE_BYTES, MAX_CID_BYTES, "octets")
LISTEN_ADDRESS: Final = endpoint(service=True)
BACKEND_ADDRESS: Final = endpoint(service=False)
ADMIN_ADDRESS: Final = or_word("none", None, LISTEN_ADDRESS)
MODE: Final = choice(get_args(Mode))
DNS_RECORD: Final = choice(get_args(DnsRecord))
SERVER_ID_FROM: Final = choice(get_args(ServerIdFrom))
WORKERS: Final = or_word("auto", "auto", whole_number(1, 1024))
DSCP: Final = or_word("keep", "keep", whole_number(0, 63))


class Section(BaseModel):
    """A mapping of the YAML: no key but its own, nothing to change afterwards, no input in its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: object) -> object:
        """Leave out keys without a value: ``health:`` with every line below it commented out is no mistake."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}


def section_of(model: type[Section], name: str) -> type[Section] | None:
    """Return the model of a field that is a mapping or a list of mappings; None for every other field."""
    annotation = model.model_fields[name].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _listed(value: object) -> object:
    """Accept one server ID where a list of them may stand."""
    return [value] if isinstance(value, str) else value


def _no_server_ids() -> Mapping[int, tuple[bytes, ...]]:
    return MappingProxyType({})


# pydantic before 2.8 asks for signatures, which MappingProxyType and dict do not have.
def read_only(value: Mapping[int, tuple[bytes, ...]]) -> Mapping[int, tuple[bytes, ...]]:
    """Return a view that cannot be changed."""
    return MappingProxyType(value)


def _copied(value: Mapping[int, tuple[bytes, ...]]) -> dict[int, tuple[bytes, ...]]:
    return dict(value)


ServerIds = Annotated[
    Mapping[
        Annotated[int, CONFIG_ID],
        Annotated[tuple[Annotated[bytes, SERVER_ID], ...], BeforeValidator(_listed), Field(min_length=1)],
    ],
    AfterValidator(read_only),
    PlainSerializer(_copied),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": f"^0*[0-{MAX_CONFIG_ID}]$"},
            "additionalProperties": {
                "anyOf": [
                    dict(SERVER_ID.schema),
                    {"type": "array", "items": dict(SERVER_ID.schema), "minItems": 1},
                ]
            },
        }
    ),
]


class CidConfig(Section):
    """One QUIC-LB configuration, the same on every balancer and on the servers that issue from it.

    Rotation: add the new one here first, then give it to the servers; remove the old one when no packet
    carries its ID any more (`qlb status` says when it was last seen). Never change the key or the lengths
    under a config ID that live connections hold: they would be lost at their next change of address.
    """

    config_id: Annotated[int, CONFIG_ID] = Field(examples=[1])
    """The first three bits of every connection ID of this configuration. 0 to 6 (7 is reserved), each once.
    Required. 0 is best left free beside servers that do not speak QUIC-LB: some stacks (nginx) begin their IDs
    with zeros, and those would be decoded under it."""
    server_id_length: Annotated[int, SERVER_ID_LENGTH] = Field(examples=[4])
    """Octets of a server ID. 1 to 15; with nonce_length 19 at most. Required. Below three, clients' random
    first IDs are taken for a server's too often."""
    nonce_length: Annotated[int, NONCE_LENGTH] = Field(examples=[12])
    """Octets of the nonce, which makes each ID unique. 4 to 18; with server_id_length 19 at most. Required.
    A sum of 16 means one AES block per ID instead of four. A server can issue 256^nonce_length IDs. Below 6, restarts
    of a server soon repeat IDs (`qlb check` warns)."""
    key: Annotated[bytes | None, HEX_KEY] = Field(default=None, repr=False, exclude=True)
    """The AES-128 key, 32 hex digits (`qlb keygen`). A secret: prefer key_file. Default: none, and then
    everybody on the path reads the server ID of every packet. Not together with key_file. In a loaded
    configuration this holds the key wherever it came from."""
    key_file: Annotated[Path | None, PATH] = None
    """A file that holds the key as 32 hex digits. Relative to this file. Its owner must be root, the user that runs
    qlb, or the owner of this file; its group may read it; others must have no access to it (chmod o-rwx, go-w), unless
    it is a secret that Docker or Kubernetes mounts. It is read again at each reload. Default: none."""
    cid_length: Annotated[int | None, CID_LENGTH] = None
    """Octets of the connection IDs that servers issue, first octet included. 1 + server_id_length +
    nonce_length, which is the default, to 20; what exceeds it is random. The balancer itself decodes longer IDs
    too. Stacks that read short headers with one fixed length (aioquic) need the same value in all cid_configs."""
    length_self_encoded: Annotated[bool, BOOLEAN] = False
    """true: the low five bits of the first octet hold the ID's length, and a long header that says otherwise is
    unroutable. Only for servers that all do so; IDs with octets appended by the server are then refused.
    Default: false."""
    state: Annotated[CidState, choice(get_args(CidState))] = "active"
    """Where it is in a rotation: staged (balancers decode it, servers do not have it yet), active (servers issue from
    it) or retiring (servers issue from another one by now). All three are decoded alike; `qlb server-config` gives
    servers the active ones, and `qlb rotate` moves from state to state. Default: active."""


class BackendConfig(Section):
    """One server."""

    name: Annotated[str, NAME] = Field(examples=["agent-a"])
    """What it is called in metrics, logs and `qlb drain`: 1 to 64 letters, digits and . _ : -, each once.
    Required. The fallback hashes names: a renamed backend is a new one to connections with unroutable IDs."""
    address: Annotated[Endpoint, BACKEND_ADDRESS] = Field(examples=["127.0.0.1:5001"])
    """Where packets go: an IP literal and a port from 1 to 65535, 10.0.0.1:4433 or [2001:db8::1]:4433; an IPv4-mapped
    address is read as IPv4. Not this machine on a port of listen: packets would loop. Required.
    A changed address moves the live connections of this backend to it at once."""
    server_ids: ServerIds = Field(default_factory=_no_server_ids, examples=[{1: "c0ffee01"}])
    """Config ID → this server's ID in hex, or a list of several; exactly server_id_length octets, and no other
    backend's under that config. Default: none, for a server that does not speak QUIC-LB; it is reached by flow
    table and fallback alone."""
    weight: Annotated[int, whole_number(0, 65535)] = 1
    """Its share of new connections (the fallback) relative to the others'. 0 to 65535; 0 = none. Default: 1.
    A change moves about its share of connections whose IDs are unroutable, and no others."""
    state: Annotated[BackendState, choice(BackendState)] = BackendState.ACTIVE
    """active, or draining: it keeps its connections and gets no new ones. Default: active."""


class Forwarding(Section):
    """How packets are moved. Every value here is legal to write anywhere: whether this machine can run the
    plane and mode is found out at the start, by the plane itself.
    """

    plane: Annotated[Plane, choice(get_args(Plane))] = "auto"
    """What moves packets: batch (Linux, compiled), asyncio (everywhere), xdp (Linux, in the kernel, needs
    privileges), or auto, the fastest that works here unprivileged. Default: auto. A change needs a restart."""
    mode: Annotated[Mode, MODE] = "proxy"
    """What backends get: proxy (plain packets from the balancer, replies through it), proxy-protocol (the same
    with the client's address before the packet), ipip, gue or l2 (the client's own packet, replies directly).
    Default: proxy. A change needs a restart."""
    workers: Annotated[int | Literal["auto"], WORKERS] = 1
    """Worker processes, each with its own socket on each address. 1 to 1024, or auto: one per core. Default: 1.
    A change needs a restart."""
    session_timeout: Annotated[float, duration("1ms", "168h")] = 120.0
    """proxy mode: how long an idle session (one client and one backend) stays open if no packet with a routable
    connection ID has used it. 1ms to 168h. Default: 120s. The client's next packet opens a new session; the server
    sees a new path and the connection goes on."""
    routable_session_timeout: Annotated[float, duration("1ms", "168h")] = 1800.0
    """proxy mode: the same for sessions that routable packets have used. Until then a server may send first after a
    silence. Under pressure (max_sessions, descriptors, ports) the sessions that are idle longest are evicted earlier.
    At least session_timeout applies. 1ms to 168h. Default: 1800s."""
    max_sessions: Annotated[int, whole_number(1, 1_000_000)] = 65_536
    """proxy mode: ways back (one socket each) that a worker keeps open; beyond it the one idle for longest is
    closed. 1 to 1000000. Default: 65536."""
    pin_workers: Annotated[bool, BOOLEAN] = False
    """true: worker n runs on the n-th core that the daemon may use, and on no other (Linux); with more workers than
    cores it goes round. Default: false: the system moves them. A change needs a restart."""
    shared_listen: Annotated[bool, BOOLEAN] = False
    """true: other processes may have sockets on the addresses of `listen`, and the system deals the clients out to all
    of them; false: qlb does not start if there are any, and names them. For two daemons that overlap on purpose, such
    as a DaemonSet with maxSurge on host network. Default: false. A change takes effect with the next start."""
    receive_buffer: Annotated[Size, size("4KiB", "512MiB")] = Size(4 << 20)
    """What each worker's socket on each address holds of packets that are not read yet: octets of memory, 512KiB,
    4MiB; a packet takes about twice its length and more. 4KiB to 512MiB. Default: 4MiB. What the system does not
    grant (net.core.rmem_max, unless qlb has CAP_NET_ADMIN) is warned of at the start. A change needs a restart."""
    send_buffer: Annotated[Size, size("4KiB", "512MiB")] = Size(4 << 20)
    """Memory for packets to clients that wait in each worker's socket for the network device: octets, 512KiB, 4MiB.
    When half of it is in use, sessions that return packets take turns, so that one slow client costs no other client
    a packet. 4KiB to 512MiB. Default: 4MiB. The daemon logs a warning at the start if the system grants less
    (net.core.wmem_max, unless qlb has CAP_NET_ADMIN). A change needs a restart."""
    dscp: Annotated[int | Literal["keep"], DSCP] = "keep"
    """proxy mode: the DSCP (RFC 2474) of forwarded and returned packets: keep copies it from the packet that was
    received, as a router does; a number sets it. 0 to 63, or keep. Default: keep. Set 0 if clients must not choose the
    priority of their packets in your network. The ECN bits are always copied."""
    freebind: Annotated[bool, BOOLEAN] = True
    """true: on Linux qlb also binds addresses of listen and admin.listen that no interface has yet (a VIP on a standby,
    an IPv6 address that is still tentative), warns of each, and receives from the moment that the address is added;
    and it answers from IPv6 addresses that are local by a route only (AnyIP). false: such an address is an error at the
    start. Elsewhere than on Linux it is always an error. Default: true. A change needs a restart."""
    gso_to_backends: Annotated[bool, BOOLEAN] = False
    """batch plane: true: datagrams of a client that come together go to their backend in one piece (UDP GSO), at less
    cost. Only for backends that read whole pieces where such reach them, on this machine or in its containers:
    Envoy 1.40 does not, and loses all but the first datagram of each. Default: false. Towards clients it is
    always so."""
    interfaces: tuple[Annotated[str, INTERFACE], ...] = Field(default=(), examples=[["eth0"]])
    """ipip, gue and l2 modes: the network interfaces that clients' packets come in at; qlb's program is put on each.
    Required in these modes, where listen is the service's addresses and nothing is bound. Default: none. A change
    needs a restart."""
    attach: Annotated[Attach, choice(get_args(Attach))] = "auto"
    """xdp plane: native (in the interface's driver), generic (in the kernel, slower, with any driver), or auto: native
    where the driver can and all backends can be reached from there (docs/xdp.md, "Ways out"). Default: auto. A change
    needs a restart."""
    keep_attached: Annotated[bool, BOOLEAN] = False
    """xdp plane: true: the kernel goes on forwarding by the last configuration when qlb ends, and the next qlb takes
    over between two packets (`qlb detach` ends it). Default: false. A change needs a restart."""


class Fallback(Section):
    """Packets whose connection ID is unroutable: new connections, and servers that do not speak QUIC-LB."""

    flow_table_size: Annotated[int, whole_number(0, 16_777_216, "entries")] = 65_536
    """4-tuples of unroutable IDs that each worker remembers with their backend; the oldest goes first. 0 to
    16777216; 0 = purely stateless: they move when backends come and go. Default: 65536."""
    flow_timeout: Annotated[float, duration("1ms", "168h")] = 30.0
    """How long such a 4-tuple is remembered without packets. 1ms to 168h. Default: 30s."""
    hash_key: Annotated[bytes | None, HEX_KEY] = Field(default=None, repr=False, exclude=True)
    """The key of the 4-tuple hash, 32 hex digits, the same on all balancers of a service; with a secret one
    nobody can aim connections at one backend. Default: a published one. Not together with hash_key_file. A
    change moves connections with unroutable IDs that no table remembers."""
    hash_key_file: Annotated[Path | None, PATH] = None
    """A file that holds hash_key as 32 hex digits; the rules of key_file. Default: none."""


class Drain(Section):
    """When a draining backend has no connections left."""

    quiet_period: Annotated[float, duration("1ms", "168h")] = 60.0
    """How long no packet must have gone to a draining backend until it counts as drained; until then a reload that
    removes it is refused, unless forced. 1ms to 168h. Default: 60s. Longer than your connections are ever silent: their
    idle timeout is a good measure."""


class Rotation(Section):
    """How `qlb rotate` goes from one QUIC-LB configuration to the next."""

    quiet_period: Annotated[float, duration("1ms", "168h")] = 600.0
    """How long no packet must have carried an ID of a configuration until it may be removed, or another one take its
    config ID; until then a reload that does so is refused, unless forced. 1ms to 168h. Default: 600s."""
    balancers: tuple[Annotated[str, BALANCER], ...] = Field(
        default=(), examples=[["http://10.0.0.1:9464", "http://10.0.0.2:9464"]]
    )
    """All balancers of the service, as `qlb rotate` reaches them: their admin servers (http://ADDRESS:PORT) or control
    sockets (paths). Each must decode a new configuration before servers get it, and none may have seen the old one for
    quiet_period before it goes. Default: none: the daemon of this file alone, by admin.socket or admin.listen."""


class DiscoverySource(Section):
    """One place where backends are found, besides `backends`: a DNS name, a Service of Kubernetes, or a file.

    A backend that a source no longer has keeps its connections: it drains until no packet has gone to it for
    drain.quiet_period, and leaves then. `qlb reload` asks every source at once.
    """

    name: Annotated[str, SOURCE_NAME] = Field(examples=["agents"])
    """What it is called in metrics and the log; names of its backends begin with it (agents-10.0.0.5:4433). 1 to 16
    letters, digits and . _ : -, each once. Required."""
    dns: Annotated[str | None, DNS_NAME] = None
    """The name whose addresses are backends, asked for again when its TTL has run out. A final dot makes no difference.
    Default: none. Each source has
    one of dns, kubernetes and file. Needs the discovery extra (dnspython)."""
    kubernetes: Annotated[str | None, SERVICE] = Field(default=None, examples=["voice/agents"])
    """NAMESPACE/SERVICE whose ready endpoints are backends: its EndpointSlices are read, and followed as they change.
    Default: none. Needs the kubernetes extra (lightkube)."""
    file: Annotated[Path | None, PATH] = None
    """A file that holds a list of backends, written like the list under `backends`; it is read again when it changes. A
    file that is wrong changes nothing. Relative to this file. Default: none."""
    record: Annotated[DnsRecord, DNS_RECORD] = "address"
    """dns: what is asked for: address (A and AAAA), a, aaaa, or srv, whose records bring their own ports and weights.
    Default: address."""
    port: Annotated[int | None, whole_number(1, 65535)] = None
    """dns, kubernetes: the port of every backend, 1 to 65535. Required for dns, but for srv. Default: none: what srv
    records or EndpointSlices say."""
    port_name: Annotated[str | None, PORT_NAME] = Field(default=None, examples=["quic"])
    """kubernetes: the name of the Service's UDP port, where it has more than one. Default: none."""
    kubeconfig: Annotated[Path | None, PATH] = None
    """kubernetes: a kubeconfig file, relative to this file. Default: none: the pod's own service account; outside of a
    cluster $KUBECONFIG or ~/.kube/config."""
    resolvers: tuple[Annotated[Endpoint, RESOLVER], ...] = Field(default=(), examples=[["10.0.0.53"]])
    """dns: the servers to ask, as addresses with or without a port (53). Default: none: those in /etc/resolv.conf,
    which is read again when it changes."""
    networks: tuple[Annotated[Network, NETWORK], ...] = Field(default=(), examples=[["10.0.0.0/16"]])
    """The networks that backends may be in. An address outside is left out of an answer, and a mistake in a file.
    Required for dns and kubernetes. Default: none, which for a file allows every address."""
    server_id_from: Annotated[ServerIdFrom, SERVER_ID_FROM] = "none"
    """dns, kubernetes: where a backend's server ID comes from: address (the last server_id_length octets of its IP
    address, under every config; `qlb server-config CONFIG 10.0.0.5` prints what that server must load) or none.
    Default: none."""
    weight: Annotated[int, whole_number(0, 65535)] = 1
    """dns, kubernetes: the weight of each backend; srv records have their own. 0 to 65535. Default: 1."""
    min_interval: Annotated[float, duration("100ms", "24h")] = 5.0
    """dns: the least time from one question to the next, however short a TTL is. dns, kubernetes: the time after an
    error. 100ms to 24h. Default: 5s."""
    max_interval: Annotated[float, duration("100ms", "24h")] = 300.0
    """dns: the most time from one question to the next, however long a TTL is. 100ms to 24h. Default: 300s."""
    max_backends: Annotated[int, whole_number(1, 16384)] = 1000
    """The most that this source may bring; what is beyond it is left out. 1 to 16384. Default: 1000."""


class BackendsFile(Section):
    """What a file of `discovery` holds."""

    backends: tuple[BackendConfig, ...] = Field(
        max_length=MAX_BACKENDS, examples=[[{"name": "agent-a", "address": "127.0.0.1:5001"}]]
    )
    """The backends, as in the configuration."""


class Health(Section):
    """How backends are checked. An unhealthy one gets no new connections; packets with its ID still go to it."""

    probe: Annotated[Probe, choice(get_args(Probe))] = "quic"
    """quic: one packet of an unknown version, which most QUIC servers answer with Version Negotiation and forget (a
    server that never does is judged by its answers to clients); handshake: a complete one, and the server's connection
    IDs must lead back to it (needs the aioquic extra); none: all are healthy. Default: quic."""
    interval: Annotated[float, duration("10ms", "24h")] = 2.0
    """From one probe of a backend to the next. 10ms to 24h. Default: 2s."""
    timeout: Annotated[float, duration("1ms", "1h")] = 1.0
    """How long an answer may take. 1ms to 1h. Default: 1s. Above interval, probes come more slowly."""
    rise: Annotated[int, whole_number(1, 1000)] = 2
    """Answers in a row that make an unhealthy backend healthy. 1 to 1000. Default: 2. The first answer
    after the start decides alone."""
    fall: Annotated[int, whole_number(1, 1000)] = 3
    """Probes in a row without an answer that make a healthy backend unhealthy. 1 to 1000. Default: 3. A first
    one that is refused (nothing listens there) decides alone, and so does a wrong connection ID."""
    all_failing: Annotated[AllFailing, choice(get_args(AllFailing))] = "keep"
    """What to hold of it when every backend has stopped to answer within one round of probes. keep: this node's own
    fault, so new connections go where they went before, until some probe succeeds; obey: all are down, and new
    connections are dropped. /readyz is 503 either way. Default: keep."""
    alpn: tuple[Annotated[str, ALPN], ...] = Field(default=("h3",), examples=[["h3", "moq-00"]])
    """probe handshake: the application protocols that it offers. Default: h3. A server that speaks none of them ends
    the handshake and counts as alive, since it has shown its connection ID."""
    server_name: Annotated[str | None, SERVER_NAME] = None
    """probe handshake: the host name that it asks for (TLS SNI). Default: none."""


class Admin(Section):
    """The ways to look at and steer the daemon."""

    listen: Annotated[Endpoint | None, ADMIN_ADDRESS] = Endpoint("127.0.0.1", 9464)
    """TCP address of the read-only HTTP server (/metrics, /healthz, /readyz, /status); port 0 takes a free one,
    none turns it off. Default: 127.0.0.1:9464. It knows no users: keep it off public addresses. A change needs
    a restart."""
    socket: Annotated[Path | None, PATH] = None
    """Unix socket for reload, drain and undrain, mode 0600. Relative to this file; 107 octets at most when
    complete. Its folder is made at the start. Default: none; SIGHUP still reloads. A change needs a restart."""


class Logging(Section):
    """What the daemon writes to stderr. Packets are counted, never logged."""

    level: Annotated[LogLevel, choice(get_args(LogLevel))] = "info"
    """The least that is written: debug, info, warning or error. Default: info."""
    format: Annotated[LogFormat, choice(get_args(LogFormat))] = "text"
    """text, or json: one object a line. Default: text."""


class Config(Section):
    """One qlb daemon. Balancers of one service share cid_configs, backends and the fallback's hash_key."""

    listen: tuple[Annotated[Endpoint, LISTEN_ADDRESS], ...] = Field(
        min_length=1, examples=[["127.0.0.1:4433", "[::1]:4433"]]
    )
    """The UDP addresses of the service: a list of one or more IP literals with ports, each once; 0.0.0.0 and
    [::] are every address of the machine, and port 0 takes a free one (for tests). Required. A change needs a
    restart."""
    cid_configs: tuple[CidConfig, ...] = ()
    """QUIC-LB configurations, up to seven; all are decoded at once. Default: none: every ID is unroutable."""
    backends: tuple[BackendConfig, ...] = Field(
        max_length=MAX_BACKENDS, examples=[[{"name": "agent-a", "address": "127.0.0.1:5001"}]]
    )
    """The servers, up to 65536. Required; an empty list is allowed and drops every packet."""
    forwarding: Forwarding = Forwarding()
    """How packets are moved."""
    fallback: Fallback = Fallback()
    """Where packets with unroutable IDs go."""
    drain: Drain = Drain()
    """When a draining backend has no connections left."""
    rotation: Rotation = Rotation()
    """How one QUIC-LB configuration takes the place of another."""
    discovery: tuple[DiscoverySource, ...] = ()
    """Where more backends are found. Default: none."""
    health: Health = Health()
    """How backends are checked."""
    admin: Admin = Admin()
    """HTTP for looking, a Unix socket for steering."""
    logging: Logging = Logging()
    """What is written to stderr."""
    reload_on_change: Annotated[bool, BOOLEAN] = False
    """true: follow this file and the files that it names, for files that another program writes (Kubernetes). They are
    looked at each second, and a change that has stayed for one more is taken over as by `qlb reload`. What is refused
    as wrong is tried again when one of the files changes; what is refused as unsafe, when the packets in its way
    have been quiet for long enough, and the backends in its way drain meanwhile. Default: false."""
    shutdown_delay: Annotated[float, duration("0s", "24h")] = 0.0
    """From SIGTERM, when /readyz turns 503, to the end: the time for routers and other balancers to take the
    traffic away. 0s to 24h. Default: 0s."""
