"""Key files: one key each, 32 hex digits, and nobody but its owner and group may read it.

The file is opened once and its mode is asked of what was opened. A message names the file and never shows
what is in it.
"""

import os
import stat
from pathlib import Path
from typing import Final

from qlb.config.draft import Draft
from qlb.config.problems import Problems, shown
from qlb.config.scalars import HEX_KEY, ScalarError

MAX_FILE_BYTES: Final = 4096
"""A file that is larger is not a key."""
WORLD_ACCESS: Final = stat.S_IRWXO
_HINT: Final = "names are relative to the configuration; make a key with `(umask 077; qlb keygen > FILE)`"


def read_keys(draft: Draft, folder: Path, problems: Problems) -> dict[Path, bytes]:
    """Read every key file that is named. folder: where relative names start.

    Returns name as in the configuration → key. What cannot be read is added to problems.
    """
    keys: dict[Path, bytes] = {}
    for key in draft.keys:
        if key.file is None or key.inline is not None:
            continue
        try:
            keys[key.file.value] = read_key_file(folder / key.file.value)
        except ScalarError as error:
            # shown(): the key itself may have been written where its file belongs.
            problems.add(key.file.mark, f"{key.path}.{key.name}_file {shown(str(key.file.value))} {error}")
    return keys


def read_key_file(path: Path) -> bytes:
    """Return the 16 octets of a key file; whitespace around the digits is fine.

    Raises ScalarError with what is wrong, to be read after the file's name.
    """
    text = _read(path).strip()
    if not text:
        raise ScalarError(f"is empty: write a key into it, `qlb keygen > {path}`")
    # Latin-1 takes any octet, so that the one complaint is that of the key's form.
    return HEX_KEY.parse(text.decode("latin-1"))


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a named pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ScalarError(f"cannot be read: {error.strerror} ({_HINT})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ScalarError("is not a regular file: a key file holds 32 hex digits")
        if status.st_mode & WORLD_ACCESS:
            raise ScalarError(f"is open to everybody on this machine: chmod o-rwx {path}")
        content = os.read(descriptor, MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise ScalarError(f"has more than {MAX_FILE_BYTES} octets: a key file holds 32 hex digits")
    return content
