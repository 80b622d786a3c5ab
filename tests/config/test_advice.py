"""Warnings: each occurs when it should, at the right position, and a good configuration has none."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config import load
from qlb.config.advice import DEMO_KEY

Lines = Callable[[str], tuple[str, ...]]

INLINE = 'key: "00112233445566778899aabbccddeeff"'


def test_a_sound_configuration_has_none(sound: str, warnings: Lines) -> None:
    """A good configuration has no warning."""
    assert warnings(sound) == ()


def test_short_server_ids(sound: str, warnings: Lines) -> None:
    """The warning gives the odds: server IDs / (8 x 256^length)."""
    one = sound.replace("server_id_length: 4", "server_id_length: 1").replace("c0ffee", "")
    (line,) = warnings(one)
    assert line.startswith("4:23: server IDs of config 1 are shorter than 3 octets: a client's random first ID matches")
    assert "with odds of 1 in 1,024 (2 server IDs / (8 x 256^1))" in line
    two = sound.replace("server_id_length: 4", "server_id_length: 2").replace("c0ffee", "c0")
    assert "with odds of 1 in 262,144 (2 server IDs / (8 x 256^2))" in warnings(two)[0]
    assert warnings(sound.replace("server_id_length: 4", "server_id_length: 3").replace("c0ffee", "c0ff")) == ()


def test_plaintext(sound: str, warnings: Lines) -> None:
    """A CID config without a key causes a warning, because an observer can follow connections."""
    (line,) = warnings(sound.replace(f"    {INLINE}\n", ""))
    assert line.startswith("3:16: config 1 has no key: every packet shows its server to any observer on the path")


@pytest.mark.parametrize(("length", "odds"), [(4, "1 in 4 "), (5, "1 in 1,100 "), (6, None), (8, None)])
def test_short_nonces(sound: str, warnings: Lines, length: int, odds: str | None) -> None:
    """A nonce below six octets causes a warning, with other odds if nonces are random."""
    text = sound.replace("nonce_length: 8", f"nonce_length: {length}")
    plain = warnings(text.replace(f"    {INLINE}\n", ""))[1:]
    if odds is None:
        assert warnings(text) == plain == ()
        return
    (line,) = warnings(text)
    assert line.startswith("5:19: nonces of config 1 are shorter than 6 octets: a server begins at a random nonce")
    assert f"odds of {odds}(100^2 x 100,000 / 256^{length})" in line
    assert line.endswith("; use 6 octets or more")
    assert "with random nonces" not in line
    (line,) = plain
    assert "; a server with random nonces repeats one with even odds after " in line
    assert length != 4 or "after 77,163 connection IDs" in line


def test_no_configuration_of_ours_has_short_nonces() -> None:
    """No sample configuration has short nonces, because users copy samples."""
    root = Path(__file__).parents[2]
    samples = [*root.glob("configs/*.yaml"), *root.glob("deploy/**/qlb.yaml"), *root.glob("examples/**/*.yaml")]
    assert len(samples) > 2
    for path in samples:
        lengths = re.findall(r"nonce_length: ([0-9]+)", path.read_text())
        assert all(int(length) >= 6 for length in lengths), path


def test_a_config_without_server_ids(sound: str, warnings: Lines) -> None:
    """A CID config without server IDs causes one warning, and none about short server IDs."""
    second = (
        "  - {config_id: 2, server_id_length: 1, nonce_length: 11, key: 8f95f09245765f80256934e50c66207f}\nbackends:"
    )
    (line,) = warnings(sound.replace("backends:", second))
    assert line.startswith("7:17: no backend has a server ID under config 2: all its connection IDs are unroutable")
    (line,) = warnings(
        sound.replace('    server_ids: {1: "c0ffee01"}\n', "").replace('    server_ids: {1: "c0ffee02"}\n', "")
    )
    assert line.startswith("3:16: no backend has a server ID under config 1")


def test_backends_without_server_ids(sound: str, warnings: Lines) -> None:
    """All backends without server IDs cause one warning, and config 0 beside them another."""
    text = sound + "  - {name: c, address: 127.0.0.1:5003}\n"
    (line,) = warnings(text)
    assert line.startswith(
        "14:5: backend 'c' has no server_ids: a connection is lost when its client's address changes"
    )
    (line,) = warnings(text + "  - {name: d, address: 127.0.0.1:5004}\n")
    assert line.startswith("14:5: backend 'c' (and 1 more) has no server_ids")
    zero, _ = warnings(text.replace("config_id: 1", "config_id: 0").replace("{1:", "{0:"))
    assert zero.startswith(
        "3:16: config 0 beside a backend without server_ids ('c'): some servers without QUIC-LB issue"
    )
    assert warnings(sound.replace("config_id: 1", "config_id: 0").replace("{1:", "{0:")) == ()


SECOND = """\
  - config_id: 2
    server_id_length: 4
    nonce_length: 8
    key: "8f95f09245765f80256934e50c66207f"
backends:"""


def two_configs(sound: str) -> str:
    """Return a valid configuration with two CID configs that share server IDs."""
    return (
        sound.replace("backends:", SECOND)
        .replace('{1: "c0ffee01"}', "{1: c0ffee01, 2: c0ffee01}")
        .replace('{1: "c0ffee02"}', "{1: c0ffee02, 2: c0ffee02}")
    )


def test_two_encrypted_configs_may_share_server_ids(sound: str, warnings: Lines) -> None:
    """Two encrypted CID configs may share server IDs, as in a rotation."""
    assert warnings(two_configs(sound)) == ()


def test_a_plaintext_and_an_encrypted_config_that_share_server_ids(sound: str, warnings: Lines) -> None:
    """A plaintext and an encrypted CID config must not share server IDs, as the draft requires."""
    text = two_configs(sound).replace(f"    {INLINE}\n", "")
    plain, mixed = warnings(text)
    assert plain.startswith("3:16: config 1 has no key")
    assert mixed.startswith(
        "6:16: configs 1 and 2 share server IDs (such as c0ffee01), and only one of the two encrypts"
    )
    assert len(warnings(text.replace("2: c0ffee", "2: decade"))) == 1


def test_one_key_for_two_configs(sound: str, warnings: Lines) -> None:
    """Two CID configs with one key cause a warning, which does not show the key."""
    (line,) = warnings(
        two_configs(sound).replace("8f95f09245765f80256934e50c66207f", "00112233445566778899AABBCCDDEEFF")
    )
    assert line.startswith("10:10: config 2 has the same key as config 1: a new config ID without a new key")
    assert "0011" not in line


def test_connection_ids_of_two_lengths_on_one_server(sound: str, warnings: Lines) -> None:
    """The warning is at cid_length or else at the config, and only if one server has both lengths."""
    text = two_configs(sound)
    longer = text.replace(
        "config_id: 2\n    server_id_length: 4\n    nonce_length: 8",
        "config_id: 2\n    server_id_length: 4\n    nonce_length: 9",
    )
    (line,) = warnings(longer)
    assert line.startswith(
        "7:5: connection IDs of config 2 have 14 octets, those of config 1 13, and backend 'agent-a'"
    )
    assert line.endswith("set cid_length: 14 in both")
    (line,) = warnings(text.replace('    key: "8f95', '    cid_length: 20\n    key: "8f95'))
    assert line.startswith("10:17: connection IDs of config 2 have 20 octets")
    assert (
        warnings(
            longer.replace("{1: c0ffee01, 2: c0ffee01}", "{1: c0ffee01}").replace(
                "{1: c0ffee02, 2: c0ffee02}", "{2: c0ffee02}"
            )
        )
        == ()
    )


def test_the_demo_key_in_public(sound: str, warnings: Lines) -> None:
    """The demo key causes a warning except on the loopback."""
    demo = sound.replace("00112233445566778899aabbccddeeff", DEMO_KEY.hex())
    assert warnings(demo) == ()
    (line,) = warnings(demo.replace('["127.0.0.1:4433"]', '["[::1]:1", "[::]:443"]'))
    assert line.startswith("6:10: config 1 has the published demo key, and qlb listens on [::]:443: anyone can decode")
    assert DEMO_KEY.hex() not in line


def test_no_backend_accepts_new_connections(warnings: Lines, sound: str) -> None:
    """A warning occurs if no backend accepts new connections: none, or all draining or without weight."""
    assert warnings("listen: ['127.0.0.1:1']\nbackends: []\n") == ("2:11: backends is empty: every packet is dropped",)
    text = sound.replace("5001\n", "5001\n    state: draining\n").replace("5002\n", "5002\n    weight: 0\n")
    assert warnings(text) == ("8:3: no backend is active with a weight above 0: new connections are dropped",)
    assert warnings(text.replace("weight: 0", "weight: 1")) == ()


def test_two_backends_with_one_address(sound: str, warnings: Lines) -> None:
    """Two backends with one address cause a warning with both lines, because it is usually a mistake."""
    (line,) = warnings(sound.replace("5002", "5001"))
    assert line.startswith(
        "12:14: backends 'agent-a' (line 9) and 'agent-b' (line 12) have the same address 127.0.0.1:5001"
    )


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("0.0.0.0:9464", True),
        ("[::]:9464", True),
        ("8.8.8.8:9464", True),
        ("127.0.0.1:9464", False),
        ("[::1]:9464", False),
        ("10.0.0.1:9464", False),
        ("[fd00::1]:9464", False),
        ("none", False),
    ],
)
def test_an_admin_server_for_everyone(sound: str, warnings: Lines, address: str, is_open: bool) -> None:
    """An admin server on every address, or on a public one, causes a warning: it has no password."""
    found = warnings(f'{sound}admin: {{listen: "{address}"}}\n')
    assert [line.partition(" reads ")[0].startswith(f"14:17: admin.listen {address}") for line in found] == (
        [True] if is_open else []
    )


def test_probes_that_outlast_their_interval(sound: str, warnings: Lines) -> None:
    """The warning is at the timeout, or at its section, and absent if nothing is probed."""
    (line,) = warnings(sound + "health: {interval: 200ms, timeout: 2s}\n")
    assert line.startswith("14:36: health.timeout (2s) is longer than health.interval (200ms)")
    (line,) = warnings(sound + "health: {interval: 200ms}\n")
    assert line.startswith("14:9: health.timeout (1s)")
    assert warnings(sound + "health: {interval: 200ms, probe: none}\n") == ()


@pytest.mark.parametrize(("mode", "count"), [(0o644, 1), (0o604, 1), (0o640, 0), (0o600, 0)])
def test_a_key_in_a_file_that_everybody_can_read(tmp_path: Path, sound: str, mode: int, count: int) -> None:
    """A key in a file that other users can read causes one warning, at the first secret."""
    path = tmp_path / "qlb.yaml"
    for text, at in (
        (sound + 'fallback: {hash_key: "00112233445566778899aabbccddeeff"}\n', "6:10"),
        (sound.replace(f"    {INLINE}\n", "") + 'fallback: {hash_key: "00112233445566778899aabbccddeeff"}\n', "13:22"),
    ):
        path.write_text(text)
        path.chmod(mode)
        told = [line for line in load(path).warnings if "every user of this machine can read it" in line]
        assert len(told) == count
        assert all(line.startswith(f"{path}:{at}: this file contains a key") for line in told)


def test_a_file_without_secrets_may_be_read_by_everybody(tmp_path: Path, sound: str) -> None:
    """The demo key and the name of a key file are not secrets."""
    path = tmp_path / "qlb.yaml"
    (tmp_path / "k").write_text("8f95f09245765f80256934e50c66207f")
    (tmp_path / "k").chmod(0o600)
    for text in (
        sound.replace("00112233445566778899aabbccddeeff", DEMO_KEY.hex()),
        sound.replace(INLINE, "key_file: k") + "fallback: {hash_key_file: k}\n",
    ):
        path.write_text(text)
        path.chmod(0o644)
        assert load(path).warnings == ()
