"""The command line in this process, for tests of single commands."""

from collections.abc import Callable
from typing import Final, NamedTuple

from qlb.cid import CidParams

KEY: Final = "000102030405060708090a0b0c0d0e0f"
TEXT: Final = f"""
listen: ["127.0.0.1:4433"]
cid_configs:
  - {{config_id: 1, server_id_length: 3, nonce_length: 13, key: {KEY}}}
  - {{config_id: 2, server_id_length: 4, nonce_length: 4}}
backends:
  - {{name: a, address: "127.0.0.1:5001", server_ids: {{1: "0a0a0a", 2: "0000000a"}}}}
  - {{name: b, address: "127.0.0.1:5002", server_ids: {{1: "0b0b0b"}}}}
"""
"""A valid configuration."""
PARAMS: Final = CidParams(1, 3, 13, bytes.fromhex(KEY))
"""Its first CID config."""


class Result(NamedTuple):
    """The exit code of a command, and its output."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]
