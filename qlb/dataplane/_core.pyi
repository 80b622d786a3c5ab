"""The C core for Python. It exists only if a compiler was present when the package was installed."""

from qlb.addresses import FourTuple
from qlb.routing.router import Decision

def has_native_aes() -> bool:
    """Return whether this CPU has AES instructions that the core uses."""

def aes_encrypt(schedule: bytes, block: bytes, native: bool = False) -> bytes:
    """Encrypt 16 octets. schedule: of key_schedule.encrypt_schedule(). Raises ValueError if a size is wrong."""

def aes_decrypt(schedule: bytes, block: bytes, native: bool = False) -> bytes:
    """Decrypt 16 octets. schedule: of key_schedule.decrypt_schedule(). Raises ValueError if a size is wrong."""

def parse(datagram: bytes) -> tuple[int, int, bytes, bytes]:
    """Return (form, version, DCID, SCID), as qlb.wire.invariants.parse() does."""

def decode(table: bytes, config_id: int, cid: bytes, native: bool = True) -> bytes | None:
    """Return the server ID of an ID; None if it is too short or the table has no such CID config.

    cid: with its first octet. Raises ValueError if the table is invalid.
    """

class Router:
    """The C twin of qlb.routing.router.Router, with flow tables of bounded memory. For one thread at a time."""

    def __init__(self, table: bytes, flow_table_size: int, flow_timeout_ns: int, native: bool = True) -> None:
        """Copy a table. native: use the CPU's AES instructions if it has them.

        Raises ValueError if the table is invalid or the size is above 16,777,216.
        """

    def apply(self, table: bytes, flow_table_size: int, flow_timeout_ns: int, native: bool = True) -> None:
        """Replace the table and the bounds; entries of the flow tables stay. Raises ValueError like the constructor."""

    def decide(self, batch: list[tuple[bytes, FourTuple, int]]) -> list[Decision]:
        """Return (outcome, backend index) of each (datagram, 4-tuple, now in nanoseconds)."""

    def flows(self) -> tuple[int, int, int]:
        """Return the sizes of the flow tables by source ID, destination ID and 4-tuple; expired entries count."""

class Forwarder:
    """The batch plane's loop. On systems other than Linux the module does not have this class."""

    def __init__(
        self, listeners: list[int], counters: memoryview, offload: bool = True, avoided_ports: list[int] = ...
    ) -> None:
        """Take over bound UDP sockets. counters: writable memory of counters.SIZE_BYTES octets.

        offload: use UDP GRO and GSO if the kernel has them. avoided_ports: local ports that sessions do not use.
        Raises OSError; the descriptors then still belong to the caller.
        """

    def apply(
        self,
        table: bytes,
        endpoints: bytes,
        flow_table_size: int,
        flow_timeout_ns: int,
        max_sessions: int,
        session_timeout_ns: int,
        gso_to_backends: bool,
        routable_timeout_ns: int = 0,
        max_ports: int = 0xFFFFFFFF,
        dscp: int = -1,
    ) -> None:
        """Replace all settings between two packets. Return when it has taken effect.

        endpoints: 24 octets (struct qlb_endpoint) for each backend index of the table. max_ports: local ports that
        sessions may use. routable_timeout_ns: of sessions that routable packets have used; at least session_timeout_ns
        applies. dscp: 0 to 63, or -1 to copy that of each received packet. Raises ValueError and changes nothing if
        table and endpoints do not match or a number is out of range.
        """

    def run(self) -> None:
        """Forward until stop() is called, without the GIL. Raises OSError if the loop cannot continue."""

    def set_paused(self, paused: bool) -> None:
        """Pause or resume reading from clients; replies continue. Return when it has taken effect. Raises OSError."""

    def stop(self) -> None:
        """Make run() return, now or as soon as it is called. Any thread may call it. Sessions stay open."""

    def close(self) -> None:
        """Close the sessions and the listeners. Raises RuntimeError if run() has not returned."""

    def offloads(self) -> tuple[bool, bool]:
        """Return whether UDP GRO and UDP GSO are in use."""
