"""``make generate``: write the manual pages into man/. They are committed, because the package installs them.

Nothing in them depends on the day or on the machine.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab.site import commands, keys, roff
from qlb import __version__

MAN: Final = Path(__file__).resolve().parents[2] / "man"
_SOURCE: Final = f"qlb {__version__}"
_EXIT_CODES: Final = {
    "0": "The command is done.",
    "1": "The command has failed while running.",
    "2": "The command line or the configuration is wrong.",
}


def pages() -> dict[str, str]:
    """Return the name of each manual page → its text."""
    everything = {command.name: command for command in commands.commands()}
    found = {f"{_page(name)}.1": "\n".join(_command(one)) + "\n" for name, one in everything.items()}
    return {**found, "qlb.yaml.5": "\n".join(_configuration()) + "\n"}


def write() -> None:
    """Write all pages, and remove those that no longer exist."""
    MAN.mkdir(exist_ok=True)
    found = pages()
    for path in MAN.iterdir():
        if path.name not in found:
            path.unlink()
    for name, text in found.items():
        (MAN / name).write_text(text)


def _page(command: str) -> str:
    return command.replace(" ", "-")


def _command(command: commands.Command) -> Iterator[str]:
    yield roff.title(_page(command.name), 1, _SOURCE)
    yield roff.heading("NAME")
    yield roff.line(f"{_page(command.name)} - {_as_phrase(command.short or command.text[0])}")
    yield roff.heading("SYNOPSIS")
    yield roff.line(f"`{command.name}` {command.usage}")
    yield roff.heading("DESCRIPTION")
    yield from map(roff.paragraph, command.text)
    if command.name == "qlb":
        yield from _all_commands()
    elif command.subcommands:
        yield roff.heading("SUBCOMMANDS")
        everything = {one.name: one for one in commands.commands()}
        for name in command.subcommands:
            yield from roff.item(name, [everything[name].short])
    if command.options:
        yield roff.heading("OPTIONS")
        for option in command.options:
            yield from roff.item(option.spelling, [option.text])
    yield roff.heading("EXIT STATUS")
    for code, text in _EXIT_CODES.items():
        yield from roff.item(code, [text])
    yield roff.heading("SEE ALSO")
    yield roff.line(", ".join(f"`{name}`({section})" for name, section in _others(command)))


def _as_phrase(text: str) -> str:
    """Return a short help as the line of a manual page, which man's index contains."""
    text = text.removesuffix(".")
    return text if text[1:2].isupper() else f"{text[0].lower()}{text[1:]}"


def _all_commands() -> Iterator[str]:
    for title, found in commands.sections():
        yield roff.heading(f"COMMANDS: {title.upper()}")
        for command in found:
            yield from roff.item(_page(command.name) + "(1)", [command.short])


def _others(command: commands.Command) -> list[tuple[str, int]]:
    above = command.name.rpartition(" ")[0]
    names = [_page(name) for name in (*((above,) if above else ()), *command.subcommands)]
    return [*((name, 1) for name in dict.fromkeys(["qlb", *names]) if name != _page(command.name)), ("qlb.yaml", 5)]


def _configuration() -> Iterator[str]:
    yield roff.title("qlb.yaml", 5, _SOURCE)
    yield roff.heading("NAME")
    yield roff.line("qlb.yaml - configuration of the QUIC load balancer qlb")
    yield roff.heading("DESCRIPTION")
    yield roff.paragraph(
        "The configuration is one YAML file with any name; `qlb run` and most other commands take its path as an "
        "argument. A key without a value is the same as no key. Unknown keys and values out of range are errors, and "
        "`qlb check` reports them all. Paths are relative to the file."
    )
    yield roff.paragraph("Durations have a unit: 500ms, 30s, 5m, 1h. Sizes are octets, or have a unit: 512KiB, 4MiB.")
    for section in keys.sections():
        yield roff.heading(section.path or "THE WHOLE FILE")
        yield from map(roff.paragraph, section.text.split("\n\n"))
        for key in section.keys:
            yield from roff.item(key.path, [key.text, ". ".join(_facts(key)) + "."])
    yield roff.heading("SEE ALSO")
    yield roff.line("`qlb`(1), `qlb-check`(1), `qlb-config`(1), `qlb-schema`(1)")


def _facts(key: keys.Key) -> Iterator[str]:
    yield f"Values: {key.kind}"
    if key.default:
        yield "Required" if key.default == "required" else f"Default: {key.default}"
    if key.example:
        yield f"Example: `{key.example}`"
    if key.change:
        yield f"A change: {key.change}"


if __name__ == "__main__":
    write()
