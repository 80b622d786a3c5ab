"""The place of a new key: the file to write it to, and the name of that file in the configuration.

Both differ if systemd passes the key to the daemon. systemd copies each file of /etc/qlb/keys and names the copy after
both the folder and the file: the new key is written to keys/2.hex, and the configuration names credential:keys_2.hex.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from qlb.config.credentials import credential_name, is_credential
from qlb.config.names import CREDENTIAL_PREFIX, KEY_FILE
from qlb.config.scalars import ScalarError
from qlb.errors import QlbError

MAX_TRIES: Final = 1000
"""Names to try for a new file: 2.hex, 2-2.hex, 2-3.hex and so on."""


class KeyPlace(NamedTuple):
    """The place of a key. path: of its file. name: the value of key_file in the configuration.

    by_systemd: systemd passes the key to the daemon, but only to a daemon that it starts after that.
    """

    path: Path
    name: str
    by_systemd: bool = False


class OldKey(NamedTuple):
    """The key file of the CID config to replace. path: absolute. name: as the configuration writes it."""

    path: Path
    name: str


def choose_place(
    folder: Path, new_id: int, old: OldKey | None, file: Path | None = None, name: str | None = None
) -> KeyPlace:
    """Return the place of a new key; its file does not exist yet.

    folder: of the configuration. old: None if the old CID config has no key file. file, name: the operator's choice.
    Raises QlbError if the place of a credential cannot be found out, or the name is invalid.
    """
    path = None if file is None else file.absolute()
    if name is not None:
        try:
            KEY_FILE.parse(name)
        except ScalarError as error:
            raise QlbError(f"--key-name {error}") from None
        if path is None:
            raise QlbError("--key-name needs --key-file PATH, the file to write the new key to")
        return KeyPlace(path, name, bool(credential_name(Path(name))) or is_credential(Path(name)))
    if old is not None and is_credential(old.path):
        return _place_of_credential(folder, new_id, old, path)
    if path is None:
        path = _unused(old.path.parent if old is not None else folder / "keys", new_id)
        return KeyPlace(path, os.path.relpath(path, folder))
    return KeyPlace(path, str(path.relative_to(folder) if path.is_relative_to(folder) else path))


def _place_of_credential(folder: Path, new_id: int, old: OldKey, path: Path | None) -> KeyPlace:
    """Return the place of a new key beside the file from which systemd has made the old credential."""
    credential = old.path.name
    for prefix, rest in _splits(credential):
        source = folder / prefix if path is None else path.parent
        if os.path.isfile(source / rest):  # noqa: PTH113 (Path.is_file() raises PermissionError)
            found = path or _unused(source, new_id)
            return KeyPlace(found, f"{old.name.removesuffix(credential)}{prefix}_{found.name}", by_systemd=True)
    where = f"in {path.parent}" if path is not None else f"in a folder beside the configuration in {folder}"
    raise QlbError(
        f"the old key is the credential {credential} of systemd, and the file from which systemd has made it is not "
        f"{where}: give --key-file PATH, the file to write the new key to, and --key-name {CREDENTIAL_PREFIX}NAME"
    )


def _splits(credential: str) -> Iterator[tuple[str, str]]:
    """Yield the folders and files that systemd names so: keys_a_1.hex is a_1.hex in keys, or 1.hex in keys_a."""
    parts = credential.split("_")
    for at in range(1, len(parts)):
        if (prefix := "_".join(parts[:at])) and (rest := "_".join(parts[at:])):
            yield prefix, rest


def _unused(folder: Path, new_id: int) -> Path:
    names = (f"{new_id}.hex", *(f"{new_id}-{number}.hex" for number in range(2, MAX_TRIES)))
    return next(folder / name for name in names if not os.path.lexists(folder / name))
