"""The control socket of a daemon whose configuration does not name one, as the daemon and the commands find it.

Both try the same paths in the same order. The daemon chooses the first one that it can create, a command the first one
that its user can use. So root and every other user can each have a daemon, and a command finds the own one. Under
systemd, RuntimeDirectory= sets RUNTIME_DIRECTORY for the daemon and for ExecReload=; with the shipped unit it is
/run/qlb too. Neither folder exists in a container that does not run as root: such a daemon has no control socket.

This module imports nothing heavy, so that ``qlb status`` starts at once.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

NAME: Final = "qlb.sock"
SYSTEM_FOLDER: Final = Path("/run/qlb")
OFF: Final = "none"
"""The word for admin.socket that turns the control socket off."""


def candidates(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the possible paths, the preferred one first. environ: of this process."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    folders = (runtime, str(SYSTEM_FOLDER), environ.get("XDG_RUNTIME_DIR", ""))
    return tuple(dict.fromkeys(Path(folder) / NAME for folder in folders if folder.startswith("/")))


def choose(environ: Mapping[str, str]) -> Path | None:
    """Return the path for a daemon's control socket: the first that this process can create, or None."""
    return next((path for path in candidates(environ) if _is_usable(path.parent)), None)


def find(environ: Mapping[str, str]) -> Path:
    """Return the control socket that a command uses: the first one that this user can write to.

    Without such a socket, return the path at which a daemon of this user would listen.
    """
    found = next((path for path in candidates(environ) if os.access(path, os.W_OK)), None)
    return found or choose(environ) or SYSTEM_FOLDER / NAME


def _is_usable(folder: Path) -> bool:
    """Return whether this process can create files in a folder that no third user controls."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return folder == SYSTEM_FOLDER and os.access(folder.parent, os.W_OK | os.X_OK)  # the daemon creates it
    except OSError:
        return False
    is_trusted = stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.geteuid())
    return is_trusted and os.access(folder, os.W_OK | os.X_OK)
