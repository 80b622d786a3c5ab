"""Files without a name: memory that processes share by passing its descriptor."""

import os
import tempfile
from contextlib import suppress


def open_anonymous(name: str) -> int:
    """Open an empty file that has no name in any folder; return its descriptor. name: shown in /proc. Raises OSError.

    In memory where the system can do that. Sandboxes and old kernels refuse memfd_create() though Python knows it; a
    file in the folder for temporary files does as well there.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
