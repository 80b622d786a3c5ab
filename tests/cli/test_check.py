"""Commands that check a configuration and print keys, schemas and parameters: their output and their exit codes."""

import json
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest

from lab.command_line import KEY, TEXT, Run
from qlb.dataplane import planes
from qlb.dataplane.limits import Limits

CONFIGS = Path(__file__).parents[2] / "configs"
PLANE = f"plane {planes.choose('auto', 'proxy')}"


@pytest.fixture(autouse=True)
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check as on a machine with many descriptors and ports, because the line of `qlb check` has their result."""
    monkeypatch.setattr("qlb.daemon.preflight.read_limits", lambda: Limits(1_048_576, 1_000_000))


def test_check_without_keys(qlb: Run, tmp_path: Path) -> None:
    """A CI system that must not have the keys can check everything else."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT.replace(f"key: {KEY}", "key_file: keys/1.hex"))
    assert qlb("check", path).code == 2
    code, out, err = qlb("check", "--no-keys", path)
    assert code == 0
    assert out.startswith(f"{path}: good; 2 backends, {PLANE}, 65,536 sessions per worker, key files not read\n")
    assert "cannot be read" not in err
    path.write_text(path.read_text().replace("server_id_length: 3", "server_id_length: 5"))
    code, out, err = qlb("check", "--no-keys", path)
    assert (code, out) == (2, "")
    assert "server_ids" in err


def test_check_of_a_valid_file(qlb: Run, config: Path) -> None:
    """A valid file gives exit code 0, a line with the plane that would run, and a line about the probe."""
    result = qlb("check", config)
    assert result.code == 0
    assert result.out == (
        f"{config}: good; 2 backends, {PLANE}, 65,536 sessions per worker\n"
        "health.probe auto proves that a backend answers, and that its connection IDs lead back to it from any port "
        "(aioquic is installed, so it includes handshakes)\n"
    )


@pytest.mark.parametrize(
    ("max_sessions", "limits", "sessions", "warnings"),
    [
        ("auto", Limits(20_000, None), 19_936, ()),
        ("auto", Limits(1_048_576, 200), 180, ()),
        ("100", Limits(20_000, None), 100, ()),
        ("20000", Limits(20_000, 200), 180, ("a worker may open 20,000 files", "there are 200 local ports")),
    ],
)
def test_check_prints_the_sessions_of_this_machine(
    qlb: Run,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_sessions: str,
    limits: Limits,
    sessions: int,
    warnings: tuple[str, ...],
) -> None:
    """`auto` is as many as this machine grants. A number that it does not grant is a warning."""
    monkeypatch.setattr("qlb.daemon.preflight.read_limits", lambda: limits)
    config.write_text(f"forwarding: {{plane: asyncio, max_sessions: {max_sessions}}}\n{TEXT}")
    result = qlb("check", config)
    assert result.out.startswith(f"{config}: good; 2 backends, plane asyncio, {sessions:,} sessions per worker\n")
    found = [line for line in result.err.splitlines() if "max_sessions" in line]
    assert [text for text in warnings if sum(text in line for line in found) == 1] == list(warnings)
    assert len(found) == len(warnings)


@pytest.mark.parametrize(
    ("probe", "text"),
    [
        ("quic", "health.probe quic proves that a backend answers, not that its connection IDs lead back to it\n"),
        ("handshake", "proves that a backend answers, and that its connection IDs lead back to it from any port\n"),
        ("none", "health.probe none proves nothing\n"),
    ],
)
def test_check_states_what_the_probe_proves(qlb: Run, config: Path, probe: str, text: str) -> None:
    """The last line states what the configured probe proves."""
    config.write_text(f"health: {{probe: {probe}}}\n{TEXT}")
    assert qlb("check", config).out.endswith(text)


def test_check_reports_every_problem_at_once(qlb: Run, config: Path) -> None:
    """Each problem is a line on stderr with file, line and column. No secret is shown, and the exit code is 2."""
    config.write_text(TEXT.replace("nonce_length: 13", "nonce_lenght: 13").replace("5002", "99999"))
    result = qlb("check", config)
    assert (result.code, result.out) == (2, "")
    lines = result.err.splitlines()
    assert len(lines) >= 2
    assert all(re.match(rf"{config}:\d+:\d+: ", line) for line in lines)
    assert KEY not in result.err


@pytest.mark.parametrize(
    ("forwarding", "text"),
    [
        ("{mode: proxy-protocol}", "1:20: forwarding.mode must be one of proxy, ipip, gue, l2, not 'proxy-protocol'"),
        (
            "{plane: xdp}",
            "1:21: forwarding.plane xdp does not support mode proxy, the default: set forwarding.mode to ",
        ),
    ],
)
def test_check_refuses_an_unsupported_mode(qlb: Run, config: Path, forwarding: str, text: str) -> None:
    """A mode that this release or this plane does not support is an error that names the alternatives."""
    config.write_text(f"forwarding: {forwarding}\n{TEXT}")
    result = qlb("check", config)
    assert result.code == 2
    assert result.err.startswith(f"{config}:{text}")


def test_check_reports_all_that_this_machine_lacks(qlb: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each missing library and plane is a problem with its position and the other choices."""
    monkeypatch.setitem(sys.modules, "qlb.health.handshake", None)
    monkeypatch.setattr(planes, "what_lacks", lambda name: "" if name == "asyncio" else "it is not for this machine")
    config.write_text(f"forwarding: {{plane: batch}}\nhealth: {{probe: handshake}}\n{TEXT}")
    code, out, err = qlb("check", config)
    assert (code, out) == (2, "")
    probe, plane = err.splitlines()
    assert probe.startswith(f"{config}:2:17: health.probe: handshake needs the aioquic extra: ")
    assert probe.endswith(", or choose quic or none")
    assert plane == (
        f"{config}:1:21: plane batch cannot run here: it is not for this machine; `plane: auto` chooses one that can"
    )


def test_check_explains_the_choice_of_the_plane(qlb: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a faster plane cannot run here, a warning gives the reason."""
    monkeypatch.setattr(planes, "what_lacks", lambda name: "no C compiler" if name == "batch" else "")
    code, out, err = qlb("check", config)
    assert code == 0
    assert out.startswith(f"{config}: good; 2 backends, plane asyncio, ")
    assert f"{config}:2:1: plane batch cannot run here: no C compiler; asyncio forwards instead\n" in err


@pytest.mark.parametrize(
    ("freebind", "effect"),
    [("true", "qlb would start, and receive from the moment that it is added"), ("false", "qlb would not start")],
)
def test_check_warns_about_foreign_addresses(qlb: Run, config: Path, freebind: str, effect: str) -> None:
    """Addresses to bind that this machine does not have cause warnings, because they are often mistyped."""
    text = TEXT.replace('listen: ["127.0.0.1:4433"]', 'listen: ["127.0.0.1:4433", "198.51.100.8:4433"]')
    config.write_text(f"admin: {{listen: '198.51.100.9:9464'}}\nforwarding: {{freebind: {freebind}}}\n{text}")
    code, _, err = qlb("check", config)
    lines = [line for line in err.splitlines() if "not an address" in line]
    ending = f"is not an address of this machine now; {effect}"
    assert code == 0
    assert lines == [
        f"warning: {config}:4:28: listen: 198.51.100.8:4433 {ending}",
        f"warning: {config}:1:17: admin.listen: 198.51.100.9:9464 {ending}",
    ]


def test_check_of_a_socket_in_no_folder(qlb: Run, config: Path) -> None:
    """Only the last folder of admin.socket may be missing, because qlb creates no other."""
    config.write_text(f"admin: {{socket: run/qlb.sock}}\n{TEXT}")
    assert qlb("check", config).code == 0
    config.write_text(f"admin: {{socket: nowhere/run/qlb.sock}}\n{TEXT}")
    code, _, err = qlb("check", config)
    assert code == 2
    assert err == (
        f"{config}:1:17: admin.socket 'nowhere/run/qlb.sock': the folder {config.parent.resolve() / 'nowhere'} does "
        "not exist; create it, or correct the path (qlb creates only the last folder)\n"
    )


def test_check_of_one_backend(qlb: Run, config: Path) -> None:
    """One backend is counted in the singular."""
    config.write_text("".join(line for line in TEXT.splitlines(keepends=True) if "name: b" not in line))
    assert "good; 1 backend, plane" in qlb("check", config).out


def test_check_of_a_missing_file(qlb: Run, tmp_path: Path) -> None:
    """A missing file is a problem of the configuration, without a traceback."""
    result = qlb("check", tmp_path / "missing.yaml")
    assert result.code == 2
    assert "Traceback" not in result.err


def test_keygen(qlb: Run) -> None:
    """Every key has 32 hex digits and is new."""
    first, second = qlb("keygen").out, qlb("keygen").out
    assert re.fullmatch(r"[0-9a-f]{32}\n", first)
    assert first != second


def test_keygen_to_a_file(qlb: Run, tmp_path: Path) -> None:
    """A key file has mode 0600, missing folders are private, and an existing file is never overwritten."""
    path = tmp_path / "keys/1.hex"
    assert qlb("keygen", path) == (0, "", "")
    key = path.read_text()
    assert re.fullmatch(r"[0-9a-f]{32}\n", key)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    code, _, err = qlb("keygen", path)
    assert (code, "exists already" in err, path.read_text()) == (1, True, key)


def test_schema_is_json(qlb: Run) -> None:
    """The output is a JSON Schema."""
    assert json.loads(qlb("schema").out)["$schema"].startswith("https://json-schema.org/")


def test_server_config(qlb: Run, config: Path) -> None:
    """The output contains the key and the server ID, and --yang prints the draft's model."""
    out = qlb("server-config", config, "a").out
    assert KEY in out
    assert "0a0a0a" in out
    yang = json.loads(qlb("server-config", config, "b", "--yang").out)
    (model,) = yang.values()
    assert model["config-id"] == 1


def test_server_config_for_a_stack(qlb: Run, config: Path) -> None:
    """--for prints the stack's form. If the stack cannot issue the IDs, the exit code is 2 and the reason is given."""
    assert KEY in qlb("server-config", config, "b", "--for", "aioquic").out
    refused = qlb("server-config", config, "b", "--for", "moq-relay")
    assert (refused.code, refused.out) == (2, "")
    assert "has a key, and moq-relay issues plaintext IDs only" in refused.err
    assert KEY not in refused.err
    assert qlb("server-config", config, "a", "--for", "unknown").code == 2
    assert qlb("server-config", config, "a", "--for", "json", "--yang").code == 2


def test_server_config_of_an_unknown_backend(qlb: Run, config: Path) -> None:
    """An unknown backend is an error."""
    assert qlb("server-config", config, "unknown").code in (1, 2)


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_examples_pass(qlb: Run, tmp_path: Path, name: str) -> None:
    """Every file in configs/ is valid after its key files have been created."""
    path = Path(shutil.copy(CONFIGS / name, tmp_path))
    for key_file in re.findall(r"^\s*(?:key_file|hash_key_file):\s*(\S+)", path.read_text(), re.MULTILINE):
        (tmp_path / key_file).parent.mkdir(exist_ok=True)
        (tmp_path / key_file).touch(mode=0o600)
        (tmp_path / key_file).write_text(KEY)
    result = qlb("check", path)
    assert result.code == 0, result.err
