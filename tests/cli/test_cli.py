"""The command line as a whole: its help, its shell completion, and the modules that a command loads."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner

from lab.command_line import TEXT, Run
from qlb.cli import cli
from qlb.cli.client import ConfigCommand

HEAVY: Final = (
    "aiohttp",
    "aioquic",
    "asyncio",
    "cryptography",
    "multiprocessing",
    "prometheus_client",
    "qlb.config",
    "qlb.daemon",
    "qlb.dataplane",
    "rich",
    "urllib.request",
    "uvloop",
    "yaml",
)
"""Modules that only some commands need; each costs 10 ms or more."""
WITH_DAEMON: Final = ("status", "top", "reload", "drain", "undrain", "upgrade", "explain", "config")


def commands(group: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group, with its full name."""
    assert isinstance(group, click.Group)
    context = click.Context(group)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None, word
        yield f"{name} {word}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")


def loaded(*arguments: str) -> set[str]:
    """Return the modules that a fresh process has loaded when a command has ended."""
    program = (
        "import sys\nfrom qlb.cli import main\n"
        f"sys.argv = ['qlb', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("keygen",),
        ("--help",),
        ("--version",),
        ("status", "--socket", "/nonexistent"),
        ("rotate", "next", "--help"),
        ("check", "--help"),
    ],
    ids=" ".join,
)
def test_a_command_loads_only_what_it_needs(arguments: tuple[str, ...]) -> None:
    """A command without a configuration loads no event loop, YAML parser, validator, metrics or cryptography."""
    assert sorted(loaded(*arguments) & set(HEAVY)) == []


CONFIGURED: Final = ("qlb.config", "cryptography", "yaml")
"""What every command with a configuration needs of HEAVY. (Parameters of CID configs import cryptography.)"""


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("status", "--config"), CONFIGURED),
        (("drain", "a", "--config"), CONFIGURED),
        (("check",), (*CONFIGURED, "qlb.daemon", "qlb.dataplane")),
        (("server-config",), CONFIGURED),
        (("explain",), CONFIGURED),
        (("cid", "decode", "--config"), CONFIGURED),
        (("schema",), CONFIGURED),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_command_with_a_configuration_loads_little(
    tmp_path: Path, arguments: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    """It loads the YAML parser and cryptography, and no event loop, metrics or library of discovery and probes."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT + f"admin: {{socket: {tmp_path}/none}}\nhealth: {{probe: handshake}}\n")
    last = {"server-config": ("a",), "explain": ("40c0ffee",), "cid": ("20" + 16 * "00",)}.get(arguments[0], ())
    found = loaded(*arguments, *(() if arguments == ("schema",) else (str(path),)), *last)
    assert "qlb.config" in found
    assert sorted(found & {*HEAVY, "dns", "lightkube", "httpx", "jsonschema", "pydantic"} - set(needed)) == []


def test_check_does_not_load_what_discovery_needs(tmp_path: Path) -> None:
    """`qlb check` finds out whether dnspython is installed without loading it."""
    pytest.importorskip("dns.asyncresolver", reason="dnspython is not installed")
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT + "discovery: [{name: s, dns: a.example, port: 1, networks: [10.0.0.0/8]}]\n")
    assert not loaded("check", str(path)) & {"dns", "dns.resolver", "lightkube"}


def test_init_loads_only_what_it_needs(tmp_path: Path) -> None:
    """`qlb init` writes files that it does not parse, so it needs no validator and no YAML."""
    assert sorted(loaded("init", str(tmp_path / "edge")) & set(HEAVY)) == []
    assert (tmp_path / "edge/edge.yaml").exists()


def test_keygen_does_not_load_other_commands(tmp_path: Path) -> None:
    """`qlb keygen` loads fewer than 200 modules (127 with Python 3.11), and no other command."""
    modules = loaded("keygen", str(tmp_path / "key"))
    found = {name for name in modules if name.startswith("qlb.cli.")}
    assert found == {"qlb.cli.check", "qlb.cli.client"}
    assert len(modules) < 200


def test_help_has_sections() -> None:
    """`qlb --help` lists every command once, below the headings of four sections."""
    lines = CliRunner().invoke(cli, ["--help"]).output.splitlines()
    assert [line for line in lines if line in ("Run:", "Inspect:", "Operate:", "Tools:")] == [
        "Run:",
        "Inspect:",
        "Operate:",
        "Tools:",
    ]
    listed = [line.split()[0] for line in lines[lines.index("Run:") :] if line.startswith("  ")]
    assert listed == cli.list_commands(click.Context(cli))


def test_every_command_has_a_short_help() -> None:
    """Each command has a short help of up to eight words, and no help text is cut."""
    for name, command in commands(cli, "qlb"):
        assert command.short_help, name
        assert 2 <= len(command.short_help.split()) <= 8, name
        assert command.short_help.endswith("."), name
        help_text = command.get_help(click.Context(command, info_name=name))
        assert "..." not in help_text.replace("INTERFACE...", "").replace("[ARGS]...", ""), name
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} {option.name}"


def test_commands_that_talk_to_a_daemon_find_its_socket() -> None:
    """Each of them accepts --config FILE and --socket PATH."""
    for name, command in commands(cli, "qlb"):
        if name.split()[1] in WITH_DAEMON or (name.startswith("qlb rotate ")):
            options = {word for option in command.params for word in option.opts}
            assert {"--config", "--socket"} <= options, name


def test_every_configuration_can_be_an_option() -> None:
    """Each command with the argument CONFIG accepts --config FILE, -c FILE and QLB_CONFIG in its place."""
    found = [
        command
        for _, command in commands(cli, "qlb")
        if any(isinstance(one, click.Argument) and one.name == "config" for one in command.params)
    ]
    assert len(found) > 8
    for command in found:
        assert isinstance(command, ConfigCommand), command.name
        assert {"--config", "-c"} <= {word for option in command.params for word in option.opts}, command.name


@pytest.mark.parametrize(
    "words", [("check",), ("server-config", "a"), ("cid", "encode", "a"), ("explain", "c0"), ("detach",)], ids=" ".join
)
def test_a_configuration_from_the_environment(
    words: tuple[str, ...], config: Path, qlb: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With QLB_CONFIG, the configuration need not be written."""
    monkeypatch.setenv("QLB_CONFIG", str(config))
    result = qlb(*words)
    assert result.code == 0, result.err


def test_usage_errors(qlb: Run) -> None:
    """A wrong command line exits with 2."""
    assert qlb("no-such-command").code == 2
    assert qlb("check").code == 2


def test_version(qlb: Run) -> None:
    """--version prints the program's name and version."""
    assert re.fullmatch(r"qlb, version \d+\.\d+\.\d+\n", qlb("--version").out)


@pytest.mark.parametrize(
    ("words", "found"), [("qlb ro", ["rotate"]), ("qlb rotate a", ["abort"]), ("qlb status --s", ["--socket"])]
)
def test_shell_completion(words: str, found: list[str]) -> None:
    """The shell completes commands, subcommands and options."""
    environ = {
        **os.environ,
        "_QLB_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    program = Path(sys.executable).with_name("qlb")
    if not program.exists():
        pytest.skip(f"no {program}: qlb is not installed")
    done = subprocess.run([program], env=environ, capture_output=True, text=True, timeout=120, check=True)
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == found
