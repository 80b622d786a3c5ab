"""The place of a new key: the file to write, and its name in the configuration."""

from pathlib import Path

import pytest

from qlb.errors import QlbError
from qlb.rotation.key_place import KeyPlace, OldKey, choose_place

CREDENTIALS = Path("/run/credentials/qlb.service")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a configuration, with one key in keys/1.hex and one in my_keys/a_1.hex."""
    for name in ("keys/1.hex", "my_keys/a_1.hex"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    return tmp_path


def credential(name: str) -> OldKey:
    """Return an old key that is a credential of qlb.service."""
    return OldKey(CREDENTIALS / name, f"credential:{name}")


def test_beside_the_old_key(folder: Path) -> None:
    """Without a choice, the new key is beside the old one, in a file that does not exist yet."""
    old = OldKey(folder / "keys/1.hex", "keys/1.hex")
    assert choose_place(folder, 2, old) == KeyPlace(folder / "keys/2.hex", "keys/2.hex")
    assert choose_place(folder, 1, old) == KeyPlace(folder / "keys/1-2.hex", "keys/1-2.hex")
    (folder / "keys/3.hex").symlink_to("nowhere")
    assert choose_place(folder, 3, old).name == "keys/3-2.hex", "a broken link is in the way, too"
    assert choose_place(folder, 2, None) == KeyPlace(folder / "keys/2.hex", "keys/2.hex")


def test_the_operators_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The operator's file is named relative to the configuration if it is below it, else by its whole path."""
    old = OldKey(folder / "keys/1.hex", "keys/1.hex")
    assert choose_place(folder, 2, old, folder / "other/x") == KeyPlace(folder / "other/x", "other/x")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "2.hex"
    assert choose_place(folder, 2, old, elsewhere) == KeyPlace(elsewhere, str(elsewhere))
    assert choose_place(folder, 2, old, elsewhere, "keys/2.hex") == KeyPlace(elsewhere, "keys/2.hex")


@pytest.mark.parametrize(
    ("old", "file", "name"),
    [
        ("keys_1.hex", "keys/2.hex", "keys_2.hex"),
        ("my_keys_a_1.hex", "my_keys/2.hex", "my_keys_2.hex"),
    ],
)
@pytest.mark.parametrize("style", ["credential:", f"{CREDENTIALS}/"])
def test_a_credential(folder: Path, old: str, file: str, name: str, style: str) -> None:
    """The new credential is in the folder of the old one, and is named after both folder and file, in the old style."""
    place = choose_place(folder, 2, OldKey(CREDENTIALS / old, f"{style}{old}"))
    assert place == KeyPlace(folder / file, f"{style}{name}", by_systemd=True)


def test_the_operators_file_for_a_credential(folder: Path) -> None:
    """The operator's file must be beside the old key's file, or the operator names the credential, too."""
    file = folder / "keys/new.hex"
    assert choose_place(folder, 2, credential("keys_1.hex"), file) == KeyPlace(file, "credential:keys_new.hex", True)
    other = folder / "other/2.hex"
    with pytest.raises(QlbError, match=r"is not in .*other: give --key-file PATH.*and --key-name credential:NAME"):
        choose_place(folder, 2, credential("keys_1.hex"), other)
    named = choose_place(folder, 2, credential("keys_1.hex"), other, "credential:other_2.hex")
    assert named == KeyPlace(other, "credential:other_2.hex", by_systemd=True)


@pytest.mark.parametrize("name", ["keys_9.hex", "alone", "_1.hex", "keys_"])
def test_a_credential_of_unknown_origin(folder: Path, name: str) -> None:
    """If the file of a credential cannot be found, the operator must name the new one."""
    with pytest.raises(QlbError, match="the file from which systemd has made it is not in a folder beside"):
        choose_place(folder, 2, credential(name))


def test_invalid_choices(folder: Path) -> None:
    """A name needs a file, and a credential is no path."""
    with pytest.raises(QlbError, match="--key-name needs --key-file PATH"):
        choose_place(folder, 2, None, None, "credential:x")
    with pytest.raises(QlbError, match="--key-name must name a credential after credential:"):
        choose_place(folder, 2, None, folder / "x", "credential:../x")
