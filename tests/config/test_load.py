"""Whole configurations: the values of a valid one, and all problems of an invalid one with their positions."""

import json
import os
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import pytest

from qlb.addresses import Endpoint
from qlb.config import Config, Loaded, load, load_text
from qlb.config.load import load_interfaces
from qlb.config.problems import Mark, Problems
from qlb.config.tree import MappingNode, ScalarNode, SequenceNode
from qlb.config.validate import validate
from qlb.errors import ConfigError
from qlb.routing.backends import MAX_BACKENDS, BackendState

Read = Callable[[str], Loaded]
Lines = Callable[[str], tuple[str, ...]]

MISTAKES = Path(__file__).with_name("mistakes.json")

EVERY_KEY = """\
listen: ["127.0.0.1:4433", "[::1]:4433"]
cid_configs:
  - config_id: 01
    server_id_length: 3
    nonce_length: 12
    key: "00112233445566778899aabbccddeeff"
    cid_length: 17
    length_self_encoded: yes
backends:
  - name: agent-a
    address: "[::1]:5001"
    server_ids: {1: [010203, "0A0b0c"]}
    weight: 0
    state: draining
  - {name: 1e3, address: 127.0.0.1:5001, server_ids: {1: 123456}}
forwarding:
  {plane: xdp, mode: l2, interfaces: [eth0], workers: auto, session_timeout: 500ms, max_sessions: 9,
   receive_buffer: 1MiB, pin_workers: yes}
fallback: {flow_table_size: 0, flow_timeout: 5m, hash_key: "ffeeddccbbaa99887766554433221100"}
health: {probe: none, interval: 10s, timeout: 3s, rise: 1, fall: 9}
admin: {listen: none, socket: run/qlb.sock}
logging: {level: debug, format: json}
shutdown_delay: 1h
"""


def test_every_key_is_typed(read: Read, tmp_path: Path) -> None:
    """Each value has the meaning that its text suggests, in the type that the code uses."""
    config = read(EVERY_KEY).config
    assert config.listen == (Endpoint("127.0.0.1", 4433), Endpoint("::1", 4433))
    (cid,) = config.cid_configs
    assert (cid.config_id, cid.server_id_length, cid.nonce_length, cid.cid_length) == (1, 3, 12, 17)
    assert (cid.key, cid.key_file) == (bytes.fromhex("00112233445566778899aabbccddeeff"), None)
    assert cid.length_self_encoded is True
    agent, other = config.backends
    assert (agent.name, agent.address, agent.weight) == ("agent-a", Endpoint("::1", 5001), 0)
    assert agent.state is BackendState.DRAINING
    assert agent.server_ids == {1: (b"\x01\x02\x03", b"\x0a\x0b\x0c")}
    assert (other.name, other.server_ids, other.weight) == ("1e3", {1: (b"\x12\x34\x56",)}, 1)
    forwarding = config.forwarding
    assert (forwarding.plane, forwarding.mode, forwarding.workers) == ("xdp", "l2", "auto")
    assert (forwarding.session_timeout, forwarding.max_sessions) == (0.5, 9)
    assert (forwarding.receive_buffer, forwarding.pin_workers) == (1 << 20, True)
    fallback = config.fallback
    assert (fallback.flow_table_size, fallback.flow_timeout) == (0, 300.0)
    assert fallback.hash_key == bytes.fromhex("ffeeddccbbaa99887766554433221100")
    health = config.health
    assert (health.probe, health.interval, health.timeout, health.rise, health.fall) == ("none", 10.0, 3.0, 1, 9)
    assert (config.admin.listen, config.admin.socket) == (None, tmp_path.resolve() / "run/qlb.sock")
    assert (config.logging.level, config.logging.format, config.shutdown_delay) == ("debug", "json", 3600.0)


def test_defaults_are_those_of_the_contract(read: Read) -> None:
    """An empty section, a null and an absent key give the default."""
    config = read("listen: ['127.0.0.1:0']\nbackends: []\nhealth:\nadmin: ~\nforwarding: {workers: null}\n").config
    assert config.cid_configs == ()
    assert asdict(config.forwarding) == {
        "plane": "auto",
        "mode": "proxy",
        "workers": 1,
        "session_timeout": 120.0,
        "routable_session_timeout": 1800.0,
        "max_sessions": "auto",
        "pin_workers": False,
        "receive_buffer": 4 << 20,
        "send_buffer": 4 << 20,
        "dscp": "keep",
        "freebind": True,
        "gso_to_backends": False,
        "interfaces": (),
        "attach": "auto",
        "shared_listen": False,
        "keep_attached": False,
    }
    assert asdict(config.fallback) == {
        "flow_table_size": 65536,
        "flow_timeout": 30.0,
        "hash_key": None,
        "hash_key_file": None,
    }
    assert asdict(config.health) == {
        "probe": "auto",
        "interval": 2.0,
        "timeout": 1.0,
        "rise": 2,
        "fall": 3,
        "all_failing": "keep",
        "alpn": ("h3",),
        "server_name": None,
    }
    assert (config.admin.listen, config.admin.socket) == (Endpoint("127.0.0.1", 9464), None)
    assert asdict(config.logging) == {"level": "info", "format": "text"}
    assert config.shutdown_delay == 0.0


def test_a_configuration_cannot_be_changed(read: Read) -> None:
    """Sections are frozen, lists are tuples, and mappings are read-only views."""
    config = read(EVERY_KEY).config
    with pytest.raises(FrozenInstanceError):
        setattr(config, "shutdown_delay", 1.0)  # noqa: B010 - mypy would reject the plain form
    with pytest.raises(TypeError):
        config.backends[0].server_ids[1] = ()  # type: ignore[index]
    with pytest.raises(TypeError, match="workers"):
        Config(listen=(), backends=(), workers="1")  # type: ignore[call-arg]


@pytest.mark.parametrize("row", json.loads(MISTAKES.read_text()), ids=lambda row: repr(row["with"]))
def test_one_mistake_is_one_problem(sound: str, problems: Lines, row: dict[str, Any]) -> None:
    """One mistake gives one problem, which names the key, shows the value, and gives position and remedy.

    A row of mistakes.json replaces a text of the valid configuration once; the problems are LINE:COLUMN: message.
    """
    assert row["replace"] in sound
    assert list(problems(sound.replace(row["replace"], row["with"], 1))) == row["problems"]


def test_all_kinds_of_problems_are_reported_together(sound: str, problems: Lines) -> None:
    """One run reports problems of all kinds, in the order of the lines."""
    text = sound
    for old, new in [
        ("nonce_length: 8", "nonce_lenght: 8"),
        ('{1: "c0ffee01"}', '{1: "c0ffee"}'),
        ('{1: "c0ffee02"}', '{3: "c0ffee02"}'),
        ('    key: "00112233445566778899aabbccddeeff"', "    key_file: nowhere.hex"),
    ]:
        text = text.replace(old, new)
    text += "admin: {listen: 1}\nhealth: {rise: 0}\nhealth: {}\n"
    assert [tuple(map(int, line.split(":")[:2])) for line in problems(text)] == [
        (5, 5),
        (6, 15),
        (10, 21),
        (13, 18),
        (14, 17),
        (15, 16),
        (16, 1),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cid_configs:", "cid_config:"),
        ("backends:", "backend:"),
        ('    server_ids: {1: "c0ffee01"}', '    server_id: {1: "c0ffee01"}'),
        ("config_id: 1", "config-id: 1"),
        ("address: 127.0.0.1:5001", "addr: 127.0.0.1:5001"),
        ("server_id_length: 4", "server_length: 99"),
        ("config_id: 1", "config_id: one"),
        ("cid_configs:", "cid_configs: *nowhere\nxyzzy:"),
        ("key: ", "key_id: 5\n    key: "),
        ("  - config_id: 1\n", "  - nothing\n  - config_id: 1\n"),
    ],
)
def test_no_problem_follows_from_another(sound: str, problems: Lines, old: str, new: str) -> None:
    """An unreadable key or value causes no further problems."""
    found = problems(sound.replace(old, new, 1))
    assert len(found) == (2 if "xyzzy" in new else 1)


def test_what_is_below_a_misspelt_key_is_checked(sound: str, problems: Lines) -> None:
    """One run reports two mistakes if one contains the other."""
    found = problems(sound + "helth:\n  rise: 0\n")
    assert [line.split(":")[0] for line in found] == ["14", "15"]


def test_a_misspelt_key_beside_the_right_one_is_left_out(sound: str, problems: Lines) -> None:
    """The value of a misspelt key does not replace that of the correct one."""
    assert len(problems(sound.replace("nonce_length: 8", "nonce_length: 8\n    nonce_lengt: 99"))) == 1


def test_config_ids_are_unique(sound: str, problems: Lines) -> None:
    """The second use of a config ID is a problem, and server IDs are compared with neither entry."""
    again = "  - {config_id: 1, server_id_length: 6, nonce_length: 8}\nbackends:"
    assert problems(sound.replace("backends:", again)) == (
        "7:17: cid_configs[1].config_id 1 is already used by cid_configs[0]; give each CID config its own",
    )


def test_without_cid_configs_no_config_is_known(problems: Lines) -> None:
    """A server ID needs a CID config."""
    text = "listen: ['127.0.0.1:1']\nbackends:\n- {name: a, address: '127.0.0.1:2', server_ids: {1: aa}}\n"
    assert problems(text) == (
        "3:50: backends[0].server_ids: config 1 is unknown: cid_configs is empty; add it there or remove it here",
    )


def test_port_0_may_be_listened_on_twice(sound: str, read: Read) -> None:
    """Two ports 0 are two ports, and a backend on another machine with a wildcard's port is valid."""
    text = sound.replace('["127.0.0.1:4433"]', '["127.0.0.1:0", "127.0.0.1:0", "0.0.0.0:443"]')
    assert read(text.replace("127.0.0.1:5001", "10.0.0.1:443")).warnings == ()


@pytest.mark.slow
def test_too_many_backends() -> None:
    """Too many backends are a problem. The test builds the tree, because parsing would take seconds."""
    at = Mark(1, 1)
    name, address = ScalarNode(at, "a"), ScalarNode(at, "127.0.0.1:2")
    backend = MappingNode(at, ((ScalarNode(at, "name"), name), (ScalarNode(at, "address"), address)))
    listen = SequenceNode(at, (ScalarNode(at, "127.0.0.1:1"),))
    backends = SequenceNode(Mark(3, 1), (backend,) * (MAX_BACKENDS + 1))
    root = MappingNode(at, ((ScalarNode(at, "listen"), listen), (ScalarNode(at, "backends"), backends)))
    problems = Problems(Path("x"))
    assert validate(root, problems) is None
    assert problems.lines() == ("x:3:1: backends has too many items: 65536 at most",)


def test_a_socket_path_must_fit(sound: str, problems: Lines, read: Read, tmp_path: Path) -> None:
    """The socket path has at most 107 octets, and `..` is resolved as in the kernel."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    config = read(f"{sound}admin: {{socket: link/../q.sock}}\n").config
    assert config.admin.socket == tmp_path.resolve() / "q.sock"
    (line,) = problems(f"{sound}admin: {{socket: {'x' * 108}}}\n")
    assert line.startswith("14:17: admin.socket has ")
    assert line.endswith("the path of a Unix socket at most 107; choose a shorter path")


def test_a_control_socket_that_is_off(sound: str, read: Read, problems: Lines) -> None:
    """The word none turns the control socket off; without the key, the daemon chooses the path at its start."""
    assert read(f"{sound}admin: {{socket: none}}\n").config.admin.socket == "none"
    assert read(sound).config.admin.socket is None
    (line,) = problems(f'{sound}admin: {{socket: ""}}\n')
    assert line == "14:17: admin.socket must be the name of a file, not '' (or the word none)"


@pytest.mark.parametrize("socket", ["none", "new/qlb.sock", "qlb.sock", "missing/new/qlb.sock"])
def test_the_folder_of_the_control_socket(tmp_path: Path, sound: str, socket: str) -> None:
    """The daemon creates only the last folder: on the machine that will run it, a deeper path is a problem."""
    path = tmp_path / "qlb.yaml"
    path.write_text(f"{sound}admin: {{socket: {socket}}}\n")
    path.chmod(0o600)
    running = load(path).config
    if not socket.startswith("missing"):
        assert load(path, find_local=lambda _: frozenset()).warnings == ()
        return
    with pytest.raises(ConfigError) as caught:
        load(path, find_local=lambda _: frozenset())
    assert caught.value.problems == (
        f"{path}:14:17: admin.socket 'missing/new/qlb.sock': the folder {tmp_path.resolve()}/missing does not exist; "
        "create it, or correct the path (qlb creates only the last folder)",
    )
    load(path, find_local=lambda _: frozenset(), running=running)


def test_load_reads_a_file(tmp_path: Path, sound: str) -> None:
    """A byte order mark is ignored, and messages contain the path that the caller used."""
    path = tmp_path / "qlb.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + sound.encode())
    path.chmod(0o600)
    assert load(path) == load_text(sound, path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "1:1: the file is empty: it needs at least `listen` and `backends`"),
        (b"a: 1\n\xc3\xa9: \xff", "2:4: not UTF-8 text (octet 0xff): save the file as UTF-8"),
        (b"\xff\xfea\x00", "1:1: not UTF-8 text (octet 0xff): save the file as UTF-8"),
        (b"\xef\xbb\xbfa\xe9", "1:2: not UTF-8 text (octet 0xe9): save the file as UTF-8"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, line: str) -> None:
    """The problem is at the first invalid octet; its column counts characters."""
    path = tmp_path / "qlb.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problems == (f"{path}:{line}",)


@pytest.mark.parametrize(("name", "reason"), [("absent", "No such file"), (".", "it is a directory"), ("a\0b", "null")])
def test_files_that_cannot_be_opened(tmp_path: Path, name: str, reason: str) -> None:
    """A file that cannot be opened raises ConfigError."""
    with pytest.raises(ConfigError, match=f":1:1: cannot be read: .*{reason}"):
        load(tmp_path / name)


def test_a_file_without_end_is_refused() -> None:
    """A device is rejected instead of being read without end."""
    if not os.path.exists("/dev/zero"):  # noqa: PTH110
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(ConfigError, match=":1:1: cannot be read: it is not a regular file"):
        load(Path("/dev/zero"))


def test_interfaces_are_found_without_keys(tmp_path: Path) -> None:
    """Interfaces are read without key files; other mistakes still raise ConfigError."""
    path = tmp_path / "qlb.yaml"
    text = """
        listen: ["192.0.2.1:443"]
        cid_configs: [{config_id: 1, server_id_length: 4, nonce_length: 12, key_file: gone.hex}]
        backends: []
        forwarding: {mode: l2, interfaces: [eth0, eth1]}
    """
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"gone\.hex"):
        load(path)
    assert load_interfaces(path) == ("eth0", "eth1")
    path.write_text(text.replace("eth1", "a/b"))
    with pytest.raises(ConfigError, match=r"interfaces\[1\]"):
        load_interfaces(path)
