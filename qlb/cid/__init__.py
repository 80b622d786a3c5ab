"""Floor 1: the connection ID library, for balancers and for the servers behind them.

Its only large dependency is ``cryptography``, so that a server can embed it.

Spec: draft-ietf-quic-load-balancers, sections "First CID octet" and "Server ID Encoding in Connection IDs".
"""

from qlb.cid.codec import CidCodec, config_id_of
from qlb.cid.generator import CidGenerator, WorkerTag, reserved_cid
from qlb.cid.params import CidParams
from qlb.cid.source import CidSource, RetryCidSource, RotatingCidGenerator, RotatingGenerator
from qlb.errors import CidError, NonceExhausted

__all__ = [
    "CidCodec",
    "CidError",
    "CidGenerator",
    "CidParams",
    "CidSource",
    "NonceExhausted",
    "RetryCidSource",
    "RotatingCidGenerator",
    "RotatingGenerator",
    "WorkerTag",
    "config_id_of",
    "reserved_cid",
]
