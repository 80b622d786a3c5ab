"""The commands that a user can paste, in the form in which this process was started.

`qlb` alone works only where the shell finds it. From a checkout it is `.venv/bin/qlb`, and elsewhere `python -m qlb`.
"""

import os
from pathlib import Path

from qlb.errors import BackendError


def own_command(folder: Path | None = None) -> str:
    """Return the command with which this process was started: `qlb`, `.venv/bin/qlb` or `python -m qlb`.

    folder: in which it will be pasted; None is the current one.
    """
    import shlex
    import shutil
    import sys

    program = sys.argv[0]
    if Path(program).name != "qlb":
        return f"{own_python(folder)} -m qlb"
    found = shutil.which("qlb")
    if found is not None and os.path.realpath(found) == os.path.realpath(program):
        return "qlb"
    return shlex.quote(program if folder is None else str(Path(program).absolute()))


def own_python(folder: Path | None = None) -> str:
    """Return the command of the Python that runs this process. folder: as for own_command()."""
    import shlex
    import shutil
    import sys

    own = Path(sys.executable).absolute()
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None and Path(found).absolute() == own:
            return name
    nearby = os.path.relpath(own)
    return shlex.quote(str(own) if folder is not None or nearby.startswith("..") else nearby)


def require_aioquic() -> None:
    """Raise BackendError, with the command that helps, if the aioquic extra is not installed."""
    from importlib.util import find_spec

    if find_spec("aioquic") is None:
        raise BackendError(f"this command needs the aioquic extra: {own_python()} -m pip install 'qlb[aioquic]'")
