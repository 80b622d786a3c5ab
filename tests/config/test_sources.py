"""Discovery sources and files of backends: every mistake with its position."""

from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.config.backends_file import read_backends
from qlb.config.load import load_text
from qlb.config.server_config import server_config
from qlb.errors import ConfigError

SOUND = """\
listen: ["127.0.0.1:4433"]
cid_configs:
  - {config_id: 1, server_id_length: 2, nonce_length: 14, key: 00112233445566778899aabbccddeeff}
  - {config_id: 2, server_id_length: 5, nonce_length: 11, key: 00112233445566778899aabbccddeefe}
backends: []
discovery:
  - name: agents
    dns: agents.test
    port: 4433
    networks: [10.7.0.0/16]
    server_id_from: address
  - name: pool
    file: pool.yaml
  - name: pods
    kubernetes: voice/agents
    networks: [10.9.0.0/24]
"""


def problems(text: str) -> list[str]:
    """Return the problems without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, Path("x.yaml"))
    return [problem.removeprefix("x.yaml:") for problem in caught.value.problems]


def test_a_sound_one() -> None:
    """A valid file has no warnings, complete paths, and server IDs of addresses in each CID config."""
    loaded = load_text(SOUND, Path("/etc/qlb/x.yaml"))
    assert loaded.warnings == ()
    assert loaded.config.discovery[1].file == Path("/etc/qlb/pool.yaml")
    assert [one.kubeconfig for one in loaded.config.discovery] == [None] * 3
    found = server_config(loaded.config, "10.7.1.9")["cid_configs"]
    assert isinstance(found, list)
    assert [one["server_ids"] for one in found] == [["0109"], ["000a070109"]]


def test_a_kubeconfig_is_beside_the_configuration() -> None:
    """The path of a kubeconfig is relative to the configuration."""
    text = SOUND.replace("voice/agents", "voice/agents\n    kubeconfig: edge.kubeconfig")
    assert load_text(text, Path("/etc/qlb/x.yaml")).config.discovery[2].kubeconfig == Path("/etc/qlb/edge.kubeconfig")


def test_addresses_and_names_have_one_form() -> None:
    """The final dot of a name is removed, and IPv4-mapped addresses become IPv4."""
    text = SOUND.replace("agents.test", "agents.test.").replace("10.7.0.0/16]", '"::ffff:10.7.0.0/112"]')
    config = load_text(text.replace("    port", '    resolvers: ["::ffff:10.0.0.53"]\n    port'), Path("x.yaml")).config
    source = config.discovery[0]
    assert (source.dns, str(source.networks[0])) == ("agents.test", "10.7.0.0/16")
    assert source.resolvers == (Endpoint("10.0.0.53", 53),)
    assert server_config(config, "::ffff:10.7.1.9") == server_config(config, "10.7.1.9")


@pytest.mark.parametrize("name", [".", "a..", "a..b", "a b.", "x" * 254])
def test_names_that_cannot_be_asked_for(name: str) -> None:
    """Invalid DNS names are rejected; only one final dot is allowed."""
    assert "discovery[0].dns must be a DNS name" in problems(SOUND.replace("agents.test", f'"{name}"'))[0]


@pytest.mark.parametrize("address", ["10.8.0.1", "10.7.255.255", "pool", "::1"])
def test_addresses_that_no_backend_has(address: str) -> None:
    """An address outside the networks, or an invalid one, has no server configuration."""
    with pytest.raises(ConfigError, match="no backend is called"):
        server_config(load_text(SOUND, Path("x.yaml")).config, address)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("name: pool", "name: agents", "12:11: discovery[1].name 'agents' is already the name of the source in line 7"),
        ("name: pool", "name: a-name-that-is-too-long", "12:11: discovery[1].name must be 1 to 16 letters"),
        ("    dns: agents.test\n", "", "7:5: discovery[0] has neither dns nor kubernetes nor file"),
        (
            "    file: pool.yaml",
            "    dns: a.test\n    file: b",
            "12:5: discovery[1] has dns and file: write them as 2 sources",
        ),
        (
            "    file: pool.yaml",
            "    file: b\n    port: 1",
            "14:5: discovery[1].port is a key of dns and kubernetes, but",
        ),
        (
            "    dns: agents.test",
            "    dns: agents.test\n    port_name: quic",
            "9:5: discovery[0].port_name is a key of kube",
        ),
        ("    kubernetes: voice/agents", "    kubernetes: agents", "15:17: discovery[2].kubernetes must be NAMESPACE/"),
        (
            "voice/agents",
            "voice/agents\n    record: a",
            "16:5: discovery[2].record is a key of dns, but disc",
        ),
        ("voice/agents", "voice/agents\n    port_name: Quic", "16:16: discovery[2].port_name must be the name of a"),
        ("voice/agents", "voice/agents\n    port: 1\n    port_name: q", "16:5: discovery[2] has port and port_name"),
        ("    networks: [10.9.0.0/24]\n", "", "14:5: discovery[2] lacks the key networks"),
        ("    port: 4433\n", "", "7:5: discovery[0] lacks the key port"),
        ("port: 4433", "port: 4433\n    record: srv", "9:5: discovery[0].port: srv records contain their own"),
        ("    networks: [10.7.0.0/16]\n", "", "7:5: discovery[0] lacks the key networks"),
        ("10.7.0.0/16", "10.7.0.1/16", "10:16: discovery[0].networks[0] must be an IP network"),
        ("10.7.0.0/16", "10.0.0.0/8", "11:21: discovery[0].server_id_from: address under cid_configs[0]: addresses in"),
        ("agents.test", "a b", "8:10: discovery[0].dns must be a DNS name"),
        (
            "port: 4433",
            "port: 4433\n    resolvers: [dns.test]",
            "10:17: discovery[0].resolvers[0] must be an IP address",
        ),
        (
            "port: 4433",
            "port: 4433\n    records: a",
            "10:5: unknown key 'records' in discovery[0]; did you mean 'record'?",
        ),
    ],
)
def test_mistakes(old: str, new: str, problem: str) -> None:
    """Each mistake is one problem with its position."""
    assert old in SOUND
    (found,) = problems(SOUND.replace(old, new))
    assert found.startswith(problem)


def test_networks_of_two_sources_must_not_end_alike() -> None:
    """Two sources must not give one server ID to two addresses."""
    other = "  - {name: b, dns: b.test, port: 1, networks: [10.8.0.0/24], server_id_from: address}\n"
    found = problems(SOUND + other)
    assert "addresses in 10.8.0.0/24 and 10.7.0.0/16 can end in the same 2 octets" in found[0]


def test_sources_may_share_a_network() -> None:
    """An address in two sources is the same server, so sources may share a network."""
    shared = "  - {name: NAME, dns: b.test, port: 1, networks: [10.7.0.0/16], server_id_from: address}\n"
    other = shared.replace("10.7.0.0/16", "10.9.0.0/32").replace("NAME", "d")
    text = SOUND.replace("server_id_length: 2", "server_id_length: 4").replace("nonce_length: 14", "nonce_length: 12")
    load_text(text + shared.replace("NAME", "b") + shared.replace("NAME", "c") + other, Path("x.yaml"))


def test_server_ids_need_a_configuration() -> None:
    """server_id_from needs a CID config, which sets the length of server IDs."""
    text = SOUND[: SOUND.index("cid_configs")] + SOUND[SOUND.index("backends") :]
    (found,) = problems(text)
    assert "needs an entry in cid_configs" in found


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{name: a, address: "10.7.0.1:1", server_ids: {1: "0001"}}', ""),
        (
            '{name: a, address: "10.7.0.1:1", server_ids: {1: "01"}}',
            "backends[0].server_ids.1 must have 2 octets, not 1",
        ),
        ('{name: a, address: "10.7.0.1:1", server_ids: {3: "01"}}', "config 3 is unknown"),
        ('{name: a, address: "10.8.0.1:1"}', "is in none of the source's networks (10.7.0.0/16)"),
        ('{name: a, address: "[::ffff:10.8.0.1]:1"}', "address 10.8.0.1:1 is in none of the source's networks"),
        ('{name: a, address: "10.7.0.1:1"}, {name: a, address: "10.7.0.2:1"}', "backends[1].name 'a' occurs twice"),
        (
            '{name: a, address: "10.7.0.1:1", server_ids: {1: "0001"}}, '
            '{name: b, address: "10.7.0.1:1", server_ids: {1: "0001"}}',
            "'0001' already belongs to backend 'a'",
        ),
        ("{name: a}", "lacks the key address"),
        ('{name: a, adress: "10.7.0.1:1"}', "unknown key 'adress' in backends[0]; did you mean 'address'?"),
        (
            ", ".join(f'{{name: a{n}, address: "10.7.0.1:1"}}' for n in range(4)),
            "4 backends, and max_backends allows 3",
        ),
    ],
)
def test_files_of_backends(line: str, problem: str, tmp_path: Path) -> None:
    """A file of backends is checked like the configuration, with its lengths and networks."""
    path = tmp_path / "pool.yaml"
    path.write_text(f"backends: [{line}]\n")
    config = load_text(SOUND, tmp_path / "x.yaml").config
    networks = config.discovery[0].networks
    if not problem:
        (backend,) = read_backends(path, config, networks, 3)
        assert (backend.name, backend.server_ids) == ("a", {1: (b"\0\1",)})
        return
    with pytest.raises(ConfigError) as caught:
        read_backends(path, config, networks, 3)
    assert any(problem in one and one.startswith(f"{path}:1:") for one in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("text", ["", "- a\n", "listen: []\n", "backends:\n", "{", "backends: 1\n", "\x00"])
def test_what_is_no_file_of_backends(text: str, tmp_path: Path) -> None:
    """Invalid content, such as a half-written file, raises ConfigError."""
    path = tmp_path / "pool.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_backends(path, load_text(SOUND, tmp_path / "x.yaml").config, (), 3)
