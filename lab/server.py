"""The data of a backend in the daemon's configuration."""

from dataclasses import dataclass

from lab.nat import Address
from qlb.cid import CidParams


@dataclass
class Server:
    """One backend. server_id: None without QUIC-LB."""

    name: str
    server_id: bytes | None
    address: Address


def server_id_of(name: str, params: CidParams | None) -> bytes | None:
    """Return the server ID of a name: the end of the name, padded with leading zeros. None without params."""
    return None if params is None else name.encode()[-params.server_id_length :].rjust(params.server_id_length, b"\0")
