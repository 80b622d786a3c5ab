"""Floor 1: the connection ID library, for balancers and for the servers behind them.

Importing it brings in ``cryptography`` and nothing else of weight, so that a server can embed it.

Spec: draft-ietf-quic-load-balancers, sections "First CID octet" and "Server ID Encoding in Connection IDs".
"""

from qlb.cid.codec import CidCodec
from qlb.cid.generator import CidGenerator, RotatingGenerator, WorkerTag, reserved_cid
from qlb.cid.params import CidParams
from qlb.errors import CidError, NonceExhausted

__all__ = [
    "CidCodec",
    "CidError",
    "CidGenerator",
    "CidParams",
    "NonceExhausted",
    "RotatingGenerator",
    "WorkerTag",
    "reserved_cid",
]
