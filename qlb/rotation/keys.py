"""New key files. This module imports nothing heavy, so that ``qlb keygen`` starts at once."""

import os
import secrets
from pathlib import Path
from typing import Final

_KEY_BYTES: Final = 16
"""Equal to qlb.cid.params.KEY_BYTES, which cannot be imported without cryptography."""


def new_key() -> bytes:
    """Return a key from the system's random source."""
    return secrets.token_bytes(_KEY_BYTES)


def write_key(path: Path, key: bytes) -> None:
    """Write a key to a new file with mode 0600. Create missing folders with mode 0700.

    Raises FileExistsError if the path exists, another OSError if it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{key.hex()}\n")
