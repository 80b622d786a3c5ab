"""The C core for Python; there only where a compiler was when the package was installed."""

from qlb.addresses import FourTuple
from qlb.routing.router import Decision

def has_native_aes() -> bool:
    """Say whether this CPU has AES instructions that the core uses."""

def aes_encrypt(schedule: bytes, block: bytes, native: bool = False) -> bytes:
    """Encrypt 16 octets. schedule: of key_schedule.encrypt_schedule(). Raises ValueError where a size is wrong."""

def aes_decrypt(schedule: bytes, block: bytes, native: bool = False) -> bytes:
    """Decrypt 16 octets. schedule: of key_schedule.decrypt_schedule(). Raises ValueError where a size is wrong."""

def parse(datagram: bytes) -> tuple[int, int, bytes, bytes]:
    """Return what qlb.wire.invariants.parse() returns."""

def decode(table: bytes, config_id: int, cid: bytes, native: bool = True) -> bytes | None:
    """Return the server ID of an ID; None where it is too short or the table has no such config.

    cid: first octet included. Raises ValueError where the table is none.
    """

class Router:
    """The C twin of qlb.routing.router.Router, with flow tables of bounded memory. For one thread at a time."""

    def __init__(self, table: bytes, flow_table_size: int, flow_timeout_ns: int, native: bool = True) -> None:
        """Copy a table. native: use the CPU's AES instructions where it has them.

        Raises ValueError where the table is none or the size is beyond 16,777,216.
        """

    def apply(self, table: bytes, flow_table_size: int, flow_timeout_ns: int, native: bool = True) -> None:
        """Swap the table and the bounds; entries of the flow tables stay. Raises like the constructor."""

    def decide(self, batch: list[tuple[bytes, FourTuple, int]]) -> list[Decision]:
        """Return (outcome, backend index) of each (datagram, 4-tuple, now in nanoseconds)."""

    def flows(self) -> tuple[int, int, int]:
        """Return the entries of the tables by source ID, destination ID and 4-tuple; expired ones included."""

class Forwarder:
    """The batch plane's loop. Linux alone: elsewhere the module has no such class."""

    def __init__(
        self, listeners: list[int], counters: memoryview, offload: bool = True, avoided_ports: list[int] = ...
    ) -> None:
        """Take bound UDP sockets over, and memory of counters.SIZE_BYTES octets to write to.

        offload: use UDP GRO and GSO where the kernel has them. Raises OSError; then the descriptors stay the caller's.
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
        """Replace everything between two packets, and return when that is done.

        routable_timeout_ns: of sessions that routable packets have used; at least session_timeout_ns applies.
        max_ports: local ports that sessions may hold. dscp: 0 to 63, or -1 to copy it from what is received.
        endpoints: 24 octets (struct qlb_endpoint) for each backend index of the table. Raises ValueError where
        these do not fit together or a number is out of range, and changes nothing then.
        """

    def run(self) -> None:
        """Forward until stop() is called, without the GIL. Raises OSError where the loop cannot go on."""

    def hold(self, held: bool) -> None:
        """Leave the listeners unread, or read them again; replies go on. Returns when that is so. Raises OSError."""

    def stop(self) -> None:
        """Make run() return, now or as soon as it is called. From any thread; sessions stay open."""

    def close(self) -> None:
        """Close the sessions and the listeners. Raises RuntimeError while run() is under way."""

    def offloads(self) -> tuple[bool, bool]:
        """Return whether UDP GRO and UDP GSO are in use."""
