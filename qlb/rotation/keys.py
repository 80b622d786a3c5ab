"""Files that a rotation writes: new keys and changed texts. Imports nothing heavy, so that keygen starts at once."""

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


def replace_text(path: Path, text: str) -> None:
    """Replace the text of a file, which retains its mode and, if this process is root, its owner."""
    import tempfile  # here, because it would double the time that `qlb keygen` takes for imports

    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            before = path.stat()
            os.fchmod(descriptor, before.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.fchown(descriptor, before.st_uid, before.st_gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
