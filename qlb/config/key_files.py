"""Key files: one key each, 32 hex digits, that other users can neither read nor change.

A file is opened once, and its owner and mode are those of the open file. A message names the file and never shows its
content. The rules:

- The owner is root, the user that runs qlb, or the owner of the configuration, who could name another key anyway.
- Neither the group nor other users can write to it. The group can read it.
- Other users cannot read it, with two exceptions. A file without any write permission may be in a folder that other
  users cannot enter. And a file may be on a read-only file system in memory: Docker and Kubernetes pass secrets to a
  container in this way (modes 0444 and 0644), and only the users of the container can see it.

A credential of systemd may belong to the user of its unit, because systemd makes its file system read-only.
"""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from qlb.cid.params import KEY_BYTES
from qlb.config.credentials import is_credential, key_path, why_unreadable
from qlb.config.model import Config
from qlb.config.names import HEX_KEY
from qlb.config.partial import Draft
from qlb.config.problems import Problems, shown
from qlb.config.scalars import ScalarError
from qlb.config.tree import MappingNode, locate

MAX_KEY_FILE_BYTES: Final = 4096
"""Octets of the largest key file."""
_OTHERS: Final = stat.S_IRWXO
_WRITE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_MEMORY: Final = ("tmpfs", "ramfs")
_HINT: Final = "names are relative to the configuration; `qlb keygen FILE` creates a key"


def read_keys(draft: Draft, folder: Path, problems: Problems) -> dict[Path, bytes]:
    """Read every key file that the configuration names. folder: of the configuration, for relative names.

    Return the name in the configuration → key. Add a problem for each file that is invalid.
    """
    keys: dict[Path, bytes] = {}
    trusted = _trusted(problems.path)
    for key in draft.keys:
        if key.file is None or key.inline is not None:
            continue
        try:
            keys[key.file.value] = read_key_file(key_path(folder, key.file.value), trusted)
        except ScalarError as error:
            # shown(), because an operator may have written the key itself in place of the file name.
            problems.add(key.file.mark, f"{key.path}.{key.name}_file {shown(str(key.file.value))} {error}")
    return keys


def stand_in_keys(draft: Draft) -> dict[Path, bytes]:
    """Return a placeholder key for each key file, in the form of read_keys(), without opening a file."""
    files = [key.file.value for key in draft.keys if key.file is not None]
    return {file: hashlib.sha256(bytes(file)).digest()[:16] for file in files}


def check_kubeconfigs(config: Config, root: MappingNode, problems: Problems) -> None:
    """Add a problem for each kubeconfig that other users can change: it names programs that qlb runs, and credentials.

    A missing file is not a problem, because discovery tries again. root: the tree of config.
    """
    trusted = _trusted(problems.path)
    for index, source in enumerate(config.discovery):
        if source.kubeconfig is None:
            continue
        try:
            _check_owner(source.kubeconfig.stat(), source.kubeconfig, trusted)
        except ScalarError as error:
            mark = locate(root, ("discovery", index, "kubeconfig"))[2]
            problems.add(mark, f"discovery[{index}].kubeconfig {shown(str(source.kubeconfig))} {error}")
        except OSError:
            continue


def read_key_file(path: Path, trusted: frozenset[int]) -> bytes:
    """Return the 16 octets of the key in a file; whitespace around the digits is ignored.

    trusted: user IDs that may own the file. Raises ScalarError; the message continues after the file's name.
    """
    content = _read(path, trusted)
    text = content.strip()
    if not text:
        raise ScalarError(f"is empty: remove it, and create a key with `qlb keygen {path}`")
    if len(content) == KEY_BYTES and not text.isascii():
        raise ScalarError(
            f"contains {KEY_BYTES} raw octets: write them as {2 * KEY_BYTES} hex digits, "
            f"`od -An -vtx1 {path} | tr -d ' \\n'` prints them"
        )
    # Latin-1 decodes any octet, so that the only possible error is about the form of the key.
    return HEX_KEY.parse(text.decode("latin-1"))


def _trusted(configuration: Path) -> frozenset[int]:
    """Return the IDs of the users that may own secrets."""
    trusted = {0, os.geteuid()}
    with suppress(OSError, ValueError):  # the configuration may be a text without a file
        trusted.add(configuration.stat().st_uid)
    return frozenset(trusted)


def _read(path: Path, trusted: frozenset[int]) -> bytes:
    try:
        # Check before opening, because opening a device can have effects (a watchdog starts, a tape is rewound).
        if not stat.S_ISREG(path.stat().st_mode):
            raise ScalarError("is not a regular file: a key file contains 32 hex digits")
        # O_NONBLOCK, because opening a named pipe without a writer would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if is_credential(path):
            raise ScalarError(why_unreadable(path, error)) from None
        raise ScalarError(f"cannot be read: {error.strerror} ({_HINT})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ScalarError("is not a regular file: a key file contains 32 hex digits")
        if status.st_mode & _OTHERS and not _is_out_of_reach(descriptor, status, path, trusted):
            raise ScalarError(f"is accessible to every user of this machine: chmod o-rwx {path}")
        if not (is_credential(path) and _is_read_only(descriptor)):
            _check_owner(status, path, trusted)
        content = os.read(descriptor, MAX_KEY_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_KEY_FILE_BYTES:
        raise ScalarError(f"has more than {MAX_KEY_FILE_BYTES} octets: a key file contains 32 hex digits")
    return content


def _check_owner(status: os.stat_result, path: Path, trusted: frozenset[int]) -> None:
    """Raise ScalarError if users that are not trusted can change a file."""
    if status.st_uid not in trusted:
        raise ScalarError(
            f"is owned by user ID {status.st_uid}, who could change it: chown it to root, to the user that runs qlb "
            f"({os.geteuid()}), or to the owner of the configuration"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ScalarError(f"can be changed by other users than its owner: chmod go-w {path}")


def _is_out_of_reach(descriptor: int, status: os.stat_result, path: Path, trusted: frozenset[int]) -> bool:
    """Return whether other users cannot reach a file although its mode allows them to read it."""
    if status.st_mode & (_OTHERS & ~stat.S_IROTH):
        return False
    if not status.st_mode & _WRITE and _is_in_closed_folder(path, trusted):
        return True
    return _is_read_only(descriptor) and _file_system(status.st_dev) in _MEMORY


def _is_read_only(descriptor: int) -> bool:
    return bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)


def _is_in_closed_folder(path: Path, trusted: frozenset[int]) -> bool:
    """Return whether a folder above a file belongs to a trusted user, and other users cannot enter it."""
    try:
        folders = [folder.stat() for folder in Path(os.path.realpath(path)).parents]
    except OSError:
        return False
    return any(not one.st_mode & stat.S_IXOTH and one.st_uid in trusted for one in folders)


def _file_system(device: int) -> str:
    """Return the type of the file system with a device number; "" if the system does not report it."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        if fields.split(" ")[2:3] == [wanted]:
            return kind.split(" ")[0]
    return ""
