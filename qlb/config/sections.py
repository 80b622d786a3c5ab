"""The sections of the configuration that set how one daemon works: forwarding, health, admin and others.

The service itself (addresses, CID configs, backends, discovery) is in qlb.config.model. Every docstring below a field
is its text in `qlb schema`: meaning, unit, range, default, effect of a change. A reload applies a change unless the
text says otherwise.
"""

from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from qlb.addresses import Endpoint
from qlb.config.fields import Section, field
from qlb.config.names import ALPN, BALANCER, HEX_KEY, INTERFACE, KEY_FILE, PATH, SERVER_NAME, endpoint
from qlb.config.scalars import BOOLEAN, Size, choice, duration, or_word, size, whole_number
from qlb.default_socket import OFF

Plane = Literal["auto", "batch", "asyncio", "xdp"]
Mode = Literal["proxy", "ipip", "gue", "l2"]
DIRECT_RETURN: Final = ("ipip", "gue", "l2")
"""Modes in which backends answer clients directly. qlb then recognises packets by their address and binds nothing."""
Attach = Literal["auto", "native", "generic"]
AllFailing = Literal["keep", "obey"]
Probe = Literal["auto", "quic", "handshake", "none"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

LISTEN_ADDRESS: Final = endpoint(
    service=True, every="to receive on every address of this machine, write 0.0.0.0:PORT, [::]:PORT"
)
ADMIN_ADDRESS: Final = or_word("none", None, endpoint(service=True, every="write 127.0.0.1:PORT"))
MODE: Final = choice(
    get_args(Mode),
    {"dsr": "l2", "nat": "proxy", "snat": "proxy", "udp": "proxy", "ip-in-ip": "ipip", "tunnel": "gue"},
    {
        "proxy-protocol": "this release writes no PROXY headers; with ipip, gue or l2 servers see the client's address",
        "transparent": "this release cannot send from clients' addresses; with ipip, gue or l2 servers see them",
    },
)
PLANE: Final = choice(
    get_args(Plane),
    {"ebpf": "xdp", "bpf": "xdp", "kernel": "xdp", "c": "batch", "native": "batch", "python": "asyncio"},
)
LEVEL: Final = choice(get_args(LogLevel), {"trace": "debug", "notice": "info", "critical": "error"})
PROBE: Final = choice(
    get_args(Probe),
    {"tcp": "quic", "udp": "quic", "http": "handshake", "h3": "handshake", "tls": "handshake"}
    | dict.fromkeys(("off", "false", "no", "disabled"), "none"),
)
MAX_SESSIONS: Final = or_word("auto", "auto", whole_number(1, 1_000_000))
SOCKET: Final = or_word(OFF, OFF, PATH)
WORKERS: Final = or_word("auto", "auto", whole_number(1, 1024))
DSCP: Final = or_word("keep", "keep", whole_number(0, 63))


class Forwarding(Section):
    """Forwarding of packets. Every value is valid everywhere; the plane checks if this machine supports it."""

    plane: Annotated[Plane, PLANE] = "auto"
    """The program that forwards packets: batch (Linux, compiled), asyncio (any system), xdp (Linux, in the kernel,
    needs privileges), or auto, the fastest that works here without privileges. Default: auto. A change needs a
    restart."""
    mode: Annotated[Mode, MODE] = "proxy"
    """The form in which backends receive packets: proxy (plain packets from the balancer; replies return through it),
    or ipip, gue or l2 (the client's own packet; replies go directly to the client). Default: proxy. A change needs a
    restart."""
    workers: Annotated[int | Literal["auto"], WORKERS] = 1
    """Worker processes, each with its own socket on each address. 1 to 1024, or auto: one for each core. Default: 1.
    A change needs a restart."""
    session_timeout: Annotated[float, duration("1ms", "168h")] = 120.0
    """proxy mode: how long an idle session (one client and one backend) stays open if no packet with a routable
    connection ID has used it. 1ms to 168h. Default: 120s. The client's next packet opens a new session. The server
    sees a new path, and the connection continues."""
    routable_session_timeout: Annotated[float, duration("1ms", "168h")] = 1800.0
    """proxy mode: the same for sessions that routable packets have used. During this time a server can send first
    after a silence. Under pressure (max_sessions, descriptors, ports) the sessions that are idle longest are evicted
    earlier. If session_timeout is longer, it applies. 1ms to 168h. Default: 1800s."""
    max_sessions: Annotated[int | Literal["auto"], MAX_SESSIONS] = "auto"
    """proxy mode: the sessions (one socket each) that a worker can have open. Beyond this number it closes the session
    that is idle longest. 1 to 1000000, or auto: as many as the system grants (open files, local ports), up to 65536.
    `qlb check` prints the number. Default: auto."""
    pin_workers: Annotated[bool, BOOLEAN] = False
    """true: worker n runs only on the n-th core that the daemon may use (Linux). With more workers than cores, the
    count starts again at the first core. false: the system chooses the cores. Default: false. A change needs a
    restart."""
    shared_listen: Annotated[bool, BOOLEAN] = False
    """true: other processes may have sockets on the addresses of `listen`, and the system distributes the clients over
    all of them. false: qlb does not start if another process has such a socket, and names it. For two daemons that
    overlap on purpose, such as a DaemonSet with maxSurge on the host network. Default: false. A change takes effect
    at the next start."""
    receive_buffer: Annotated[Size, size("4KiB", "512MiB")] = Size(4 << 20)
    """Memory for received packets that wait in each worker's socket on each address: octets, 512KiB, 4MiB. A packet
    uses at least twice its length. 4KiB to 512MiB. Default: 4MiB. The daemon logs a warning at the start if the system
    grants less (net.core.rmem_max, unless qlb has CAP_NET_ADMIN). A change needs a restart."""
    send_buffer: Annotated[Size, size("4KiB", "512MiB")] = Size(4 << 20)
    """Memory for packets to clients that wait in each worker's socket for the network device: octets, 512KiB, 4MiB.
    When half of it is in use, sessions that return packets take turns, so that one slow client costs no other client
    a packet. 4KiB to 512MiB. Default: 4MiB. The daemon logs a warning at the start if the system grants less
    (net.core.wmem_max, unless qlb has CAP_NET_ADMIN). A change needs a restart."""
    dscp: Annotated[int | Literal["keep"], DSCP] = "keep"
    """proxy mode: the DSCP (RFC 2474) of forwarded and returned packets. keep copies it from the received packet, as a
    router does; a number sets it. 0 to 63, or keep. Default: keep. Set 0 if clients must not choose the priority of
    their packets in your network. The ECN bits are always copied."""
    freebind: Annotated[bool, BOOLEAN] = True
    """true: on Linux, qlb also binds addresses of listen and admin.listen that no interface has yet: a VIP on a standby
    node, a tentative IPv6 address. It logs a warning for each, and receives packets as soon as the address is added. It
    also answers from IPv6 addresses that only a route makes local (AnyIP). false: such an address is an error at the
    start. On other systems it is always an error. Default: true. A change needs a restart."""
    gso_to_backends: Annotated[bool, BOOLEAN] = False
    """batch plane: true: several datagrams of one client go to their backend as one piece (UDP GSO), at less cost. Only
    for backends that can read a whole piece, if they receive it whole: on this machine or in its containers. Envoy 1.40
    cannot, and loses all but the first datagram of each piece. Towards clients, qlb uses GSO in any case, if the kernel
    supports it. Default: false."""
    interfaces: tuple[Annotated[str, INTERFACE], ...] = field(default=(), examples=[["eth0"]])
    """ipip, gue and l2 modes: the network interfaces that receive clients' packets. qlb attaches its program to each.
    Required in these modes, in which `listen` names the service's addresses and qlb binds nothing. Default: none. A
    change needs a restart."""
    attach: Annotated[Attach, choice(get_args(Attach))] = "auto"
    """xdp plane: native (in the interface's driver), generic (in the kernel, slower, with any driver), or auto: native
    if the driver supports it and every backend can be reached from there (docs/xdp.md, "Ways out"). Default: auto. A
    change needs a restart."""
    keep_attached: Annotated[bool, BOOLEAN] = False
    """xdp plane: true: when qlb ends, the kernel continues to forward by the last configuration, and the next qlb takes
    over between two packets. `qlb detach` ends it. Default: false. A change needs a restart."""


class Fallback(Section):
    """Packets with an unroutable connection ID: those of new connections, and of servers without QUIC-LB."""

    flow_table_size: Annotated[int, whole_number(0, 16_777_216, "entries")] = 65_536
    """The 4-tuples with unroutable IDs that each worker remembers with their backend. A full table removes the one that
    was not used for longest. 0 to 16777216; 0 = stateless: these connections move when backends are added or removed.
    Default: 65536."""
    flow_timeout: Annotated[float, duration("1ms", "168h")] = 30.0
    """How long a worker remembers such a 4-tuple without packets. 1ms to 168h. Default: 30s."""
    hash_key: Annotated[bytes | None, HEX_KEY] = field(default=None, repr=False)
    """The key of the 4-tuple hash, 32 hex digits, equal on all balancers of a service. With a secret key an attacker
    cannot direct connections to one backend. Default: a published key. Not together with hash_key_file. A change moves
    the connections with unroutable IDs that are in no table."""
    hash_key_file: Annotated[Path | None, KEY_FILE] = field(default=None, examples=["keys/hash.hex"])
    """A file that contains hash_key as 32 hex digits. The rules of key_file apply. Default: none."""


class Drain(Section):
    """The rule by which a draining backend counts as drained."""

    quiet_period: Annotated[float, duration("1ms", "168h")] = 60.0
    """A draining backend counts as drained when no packet was forwarded to it for this long. Until then, qlb rejects a
    reload that removes it, unless forced. 1ms to 168h. Default: 60s. Choose it longer than any silence of your
    connections: their idle timeout is a good value."""


class Rotation(Section):
    """The rules by which `qlb rotate` moves from one CID config to the next."""

    quiet_period: Annotated[float, duration("1ms", "168h")] = 600.0
    """A CID config may be removed, or its config ID used for another one, when no packet has carried its IDs for this
    long. Until then, qlb rejects such a reload, unless forced. 1ms to 168h. Default: 600s."""
    balancers: tuple[Annotated[str, BALANCER], ...] = field(
        default=(), examples=[["http://10.0.0.1:9464", "http://10.0.0.2:9464"]]
    )
    """All balancers of the service, as `qlb rotate` reaches them: admin servers (http://ADDRESS:PORT) or control
    sockets (absolute paths). Servers receive a new CID config only when every balancer decodes it. An old one is
    removed only when no balancer has seen its IDs for quiet_period. Default: none: only the daemon of this file, by
    admin.socket or admin.listen."""


class Health(Section):
    """Health probes of backends. An unhealthy backend receives no new connections, only packets with its ID."""

    probe: Annotated[Probe, PROBE] = "auto"
    """quic: one packet of an unknown version, which most QUIC servers answer with Version Negotiation, without state. A
    server that never answers it is judged by its replies to clients. handshake: a complete handshake; the server's
    connection IDs must decode to this server (needs the aioquic extra). auto: quic, and where aioquic is installed also
    handshakes, at most ten a second; a wrong connection ID makes a backend unhealthy, a failed handshake does not.
    none: all backends count as healthy. Default: auto."""
    interval: Annotated[float, duration("10ms", "24h")] = 2.0
    """The time from one probe of a backend to the next. 10ms to 24h. Default: 2s."""
    timeout: Annotated[float, duration("1ms", "1h")] = 1.0
    """The time to wait for an answer. 1ms to 1h. Default: 1s. With a timeout above interval, probes are less
    frequent."""
    rise: Annotated[int, whole_number(1, 1000)] = 2
    """Successful probes in a row that make an unhealthy backend healthy. 1 to 1000. Default: 2. After the start, the
    first answer alone is enough."""
    fall: Annotated[int, whole_number(1, 1000)] = 3
    """Failed probes in a row that make a healthy backend unhealthy. 1 to 1000. Default: 3. One failure is enough if the
    first probe is refused (nothing listens there), or if a connection ID is wrong."""
    all_failing: Annotated[AllFailing, choice(get_args(AllFailing))] = "keep"
    """The reaction when every backend stops answering within one round of probes. keep: assume a fault of this node and
    forward new connections as before, until a probe succeeds. obey: treat all backends as down and drop new
    connections. /readyz is 503 in both cases. Default: keep."""
    alpn: tuple[Annotated[str, ALPN], ...] = field(default=("h3",), examples=[["h3", "moq-00"]])
    """probe handshake: the application protocols to offer. Default: h3. A server that supports none of them ends the
    handshake, and still counts as alive: it has shown its connection ID."""
    server_name: Annotated[str | None, SERVER_NAME] = field(default=None, examples=["agents.example.com"])
    """probe handshake: the host name to request (TLS SNI). Default: none."""


class Admin(Section):
    """The interfaces for monitoring and controlling the daemon."""

    listen: Annotated[Endpoint | None, ADMIN_ADDRESS] = Endpoint("127.0.0.1", 9464)
    """TCP address of the read-only HTTP server (/metrics, /healthz, /readyz, /status). Port 0 selects a free port; none
    turns the server off. Default: 127.0.0.1:9464. It has no authentication: do not bind a public address. A change
    needs a restart."""
    socket: Annotated[Path | Literal["none"] | None, SOCKET] = field(default=None, examples=["/run/qlb/qlb.sock"])
    """Control socket for reload, drain and undrain: a Unix socket with mode 0600. Relative to this file; the complete
    path has at most 107 octets. qlb creates its folder, but not the folders above. none turns it off; SIGHUP still
    reloads. Default: /run/qlb/qlb.sock if qlb can write there, otherwise $XDG_RUNTIME_DIR/qlb.sock; if another daemon
    has it, or neither can be written, qlb logs that and runs without. A change needs a restart."""


class Logging(Section):
    """The log on stderr. Packets are counted, never logged."""

    level: Annotated[LogLevel, LEVEL] = "info"
    """The lowest level to log: debug, info, warning or error. Default: info."""
    format: Annotated[LogFormat, choice(get_args(LogFormat))] = "text"
    """text, or json: one object for each line. Default: text."""
