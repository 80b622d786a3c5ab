"""Credentials of systemd: key files that the service manager passes to the daemon, named ``credential:NAME``.

When a unit starts, systemd copies the files of ``LoadCredential=keys:/etc/qlb/keys`` into a folder in memory:
keys/1.hex becomes keys_1.hex. A reload copies nothing, and the folder is removed when the unit ends. So a new key needs
`systemctl restart`, and without the running unit there are no credentials.
"""

import os
from pathlib import Path
from typing import Final

from qlb.config.names import CREDENTIAL_PREFIX

FOLDERS: Final = Path("/run/credentials")
"""systemd's folder, with one folder for each running unit that has credentials."""
UNIT: Final = "qlb.service"
"""The unit in deploy/systemd. Its credentials count in a shell, where $CREDENTIALS_DIRECTORY is not set."""
CHECK: Final = "qlb-check"
"""The unit in deploy/systemd that checks the configuration with the credentials that qlb.service would get."""
VARIABLE: Final = "CREDENTIALS_DIRECTORY"
"""The variable in which systemd passes the folder to the processes of a unit."""


def credential_name(file: Path) -> str:
    """Return the name of a credential from the configuration, or "" if it names a file."""
    text = str(file)
    return text.removeprefix(CREDENTIAL_PREFIX) if text.startswith(CREDENTIAL_PREFIX) else ""


def key_path(folder: Path, file: Path) -> Path:
    """Return the path of a key file. folder: of the configuration. file: as the configuration names it."""
    name = credential_name(file)
    return _folder() / name if name else (folder / file).absolute()


def configured_name(path: Path) -> str:
    """Return the name of a key file for the configuration. path: as key_path() returns it."""
    return f"{CREDENTIAL_PREFIX}{path.name}" if path.parent == _folder() else str(path)


def is_credential(path: Path) -> bool:
    """Return whether a path, as key_path() returns it, is that of a credential, however the configuration names it."""
    return path.parent == _folder() or path.parent.parent == FOLDERS


def why_unreadable(path: Path, error: OSError) -> str:
    """Return why a credential cannot be read, and the remedy. The text continues after the file's name."""
    unit = path.parent.name if path.parent.parent == FOLDERS else UNIT
    name = unit.removesuffix(".service")
    if os.environ.get(VARIABLE) and path.parent != _folder():
        return f"is a credential of {unit}, and this process has its own: write {CREDENTIAL_PREFIX}{path.name}"
    if isinstance(error, PermissionError):
        return f"is a credential of {unit}, which only root and the user of that unit can read: run this as root"
    if not isinstance(error, FileNotFoundError):
        return f"is a credential of {unit} and cannot be read: {error.strerror}"
    if path.parent.is_dir():
        return (
            f"is not among the credentials of {unit}: systemd loads them only when the unit starts. If the file for it "
            f"is in place, run `systemctl restart {name}`, which loses no call"
        )
    with_them = f"with them by `systemctl start {CHECK}`, or " if unit == UNIT else ""
    return (
        f"is a credential of {unit}, which is not running: systemd has its credentials only while it runs. Check the "
        f"file {with_them}without them by `qlb check --no-keys`"
    )


def _folder() -> Path:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else FOLDERS / UNIT
