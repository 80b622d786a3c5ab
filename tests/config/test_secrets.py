"""A key is in no repr or message, wherever it was written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config import Loaded, load_text
from qlb.errors import ConfigError

KEY = "8f95f09245765f80256934e50c66207f"
Read = Callable[[str], Loaded]


def test_a_loaded_configuration_does_not_show_its_keys(sound: str, read: Read) -> None:
    """Repr and str show neither inline keys nor those of key files."""
    text = sound.replace("00112233445566778899aabbccddeeff", KEY) + f'fallback: {{hash_key: "{KEY}"}}\n'
    loaded = read(text)
    config = loaded.config
    assert config.cid_configs[0].key == config.fallback.hash_key == bytes.fromhex(KEY)
    forms = (KEY, repr(bytes.fromhex(KEY))[2:-1])
    for written in (repr(loaded), str(config), str(config.fallback), str(config.cid_configs)):
        assert not any(form in written for form in forms)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('key: "00112233445566778899aabbccddeeff"', f"key: {KEY}0"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: {KEY[:-1]}"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: '{bytes.fromhex(KEY + '00').hex(':')}'"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: '0x{KEY}'"),
        ('key: "00112233445566778899aabbccddeeff"', f"key_file: 'credential:{KEY}/'"),
        ("127.0.0.1:5001", f"localhost:{KEY}"),
        ("127.0.0.1:5001", f"fe80::1:{KEY}"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: [{KEY}]"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: {{{KEY}: x}}"),
        ('key: "00112233445566778899aabbccddeeff"', f"key_file: {KEY}"),
        ('key: "00112233445566778899aabbccddeeff"', f"key_file: keys/{KEY}"),
        ('key: "00112233445566778899aabbccddeeff"', f"kee: {KEY}"),
        ('key: "00112233445566778899aabbccddeeff"', f"secret: {KEY}"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: {KEY}\n    key_file: x"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: {KEY}\n    key: {KEY}"),
        ('key: "00112233445566778899aabbccddeeff"', f"key:{KEY}"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: {KEY}: x"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: *{KEY}"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: !{KEY} x"),
        ('key: "00112233445566778899aabbccddeeff"', f"key: !{KEY}!x x"),
        ('key: "00112233445566778899aabbccddeeff"', f'key: "{KEY}'),
        ("  - config_id: 1", f"  - {{key:{KEY}}}\n  - config_id: 1"),
        ('{1: "c0ffee01"}', f'{{1: "{KEY}"}}'),
        ('{1: "c0ffee01"}', f"{{{KEY}: x}}"),
        ("config_id: 1", f"config_id: {KEY}"),
        ("name: agent-a", f"name: {KEY}!"),
        ("backends:", f"fallback: {{hash_key: {KEY}x}}\nbackends:"),
        ("backends:", f"fallback: {{hash_key_file: {KEY}}}\nbackends:"),
        ("backends:", f"admin: {{listen: {KEY}}}\nbackends:"),
        ("backends:", f"logging: {{level: {KEY}}}\nbackends:"),
        ("backends:", f"shutdown_delay: {KEY}\nbackends:"),
    ],
)
def test_no_message_shows_a_key(sound: str, tmp_path: Path, old: str, new: str) -> None:
    """No message shows a misplaced or cut key, and the error has no other exception attached."""
    assert old in sound
    with pytest.raises(ConfigError) as caught:
        load_text(sound.replace(old, new, 1), tmp_path / "qlb.yaml")
    shown = "\n".join((str(caught.value), repr(caught.value), *map(str, caught.value.problems)))
    assert KEY[:12] not in shown
    assert KEY[-12:] not in shown
    assert caught.value.__context__ is None
