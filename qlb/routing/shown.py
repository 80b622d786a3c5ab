"""Check whether the connection ID that a server shows in the long headers of its answers leads back to the server.

A client sends its packets with the ID that the server has chosen. So in proxy mode the first answer to each connection
proves whether the server and this balancer have the same CID config and the same server ID. Some long headers prove
nothing:

- Version Negotiation and Retry. Their ID is no ID of a connection, or is used for one packet only.
- A refusal with the ID that the client has chosen. Some servers copy it, and then a client could make any server look
  wrong. The flow tables know the IDs that clients have chosen.

The twin of dataplane/batch/shown.c. Nothing here raises.

Spec: RFC 9000, sections 7.2 and 17.2.
"""

from typing import Final

from qlb.cid import config_id_of
from qlb.cid.params import RESERVED_CONFIG_ID
from qlb.routing.counters import SHOWN_KINDS
from qlb.routing.flows import id_key
from qlb.routing.router import Router, find
from qlb.wire.invariants import LONG, parse
from qlb.wire.versions import VERSION_NEGOTIATION, is_retry

RIGHT: Final = SHOWN_KINDS.index("right")
WRONG: Final = SHOWN_KINDS.index("wrong")
UNROUTABLE: Final = SHOWN_KINDS.index("unroutable")


def shown_id(datagram: bytes) -> bytes | None:
    """Return the connection ID that a server's datagram shows; None if it shows none that a client would use."""
    form, version, _, scid = parse(datagram)
    if form != LONG or version == VERSION_NEGOTIATION or is_retry(datagram[0], version):
        return None
    return scid


def judge(router: Router, cid: bytes, index: int, now_s: float) -> int | None:
    """Return the kind of an ID that a backend shows, as an index in SHOWN_KINDS; None if its client has chosen it."""
    found = find(router.snapshot, LONG, cid)
    if found == index:
        return RIGHT
    if not cid or config_id_of(cid) == RESERVED_CONFIG_ID:
        return UNROUTABLE
    return None if router.flows.by_destination_id.get(id_key(cid), now_s) >= 0 else WRONG
