"""Tests of deploy/helm/qlb: Helm installs it into an API server that only records; every object is checked."""

import asyncio
import importlib.util
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from lab import scrape
from lab.clients import in_progress
from lab.daemon import configuration
from lab.deploy import runbooks
from lab.deploy.helm import NAMESPACE
from lab.deploy.kubernetes import api_server
from lab.deploy.tools import DEPLOY, REPOSITORY
from lab.nat import Address, Nat
from lab.ports import free_port
from lab.quic_servers import QuicServerBehind, generator_of, quic_servers
from lab.stage import NAMES, PARAMS
from lab.stories import Gates
from qlb.config.load import load
from qlb.rotation.keys import new_key

CHART: Final = DEPLOY / "helm/qlb"
VALUES: Final = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASES: Final = ("1.28", "1.33")
LIMIT_S: Final = 240.0
CALLS: Final = 6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("helm_sdkpy") is None, reason="Helm is not installed (package helm-sdkpy)"
    ),
]

Objects = dict[str, dict[str, Any]]


class Helm:
    """A Helm process that serves all tests of a worker."""

    def __init__(self, folder: Path) -> None:
        """Start it. folder: for Helm's own files, and for what it writes to stderr."""
        self._errors = folder / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lab.deploy.helm"],
                cwd=REPOSITORY,
                env={**os.environ, "HOME": str(folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self, question: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    async def run(self, command: str, kubeconfig: str, folder: Path, *arguments: str | Path) -> tuple[int, str]:
        """Run a command of Helm; return its exit code and output."""
        path = folder / "kubeconfig"
        path.touch(mode=0o600)
        path.write_text(kubeconfig)
        question = json.dumps([command, str(path), *map(str, arguments)])
        async with asyncio.timeout(LIMIT_S):
            answer = await asyncio.to_thread(self._answer, question)
        assert answer, self._errors.read_text()
        code, output = json.loads(answer)
        return code, output

    async def install(self, values: dict[str, Any], folder: Path) -> tuple[int, str, list[dict[str, Any]]]:
        """Install the chart with values; return Helm's exit code and output, and the created objects."""
        (folder / "values.yaml").write_text(yaml.safe_dump(values))
        async with api_server() as api:
            code, output = await self.run("install", api.kubeconfig, folder, CHART, folder / "values.yaml")
            return code, output, api.created

    async def created(self, values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
        """Install the chart with values; return the created objects."""
        code, output, objects = await self.install(values, folder)
        assert code == 0, output
        return objects

    async def installed(self, values: dict[str, Any], folder: Path) -> Objects:
        """Install the chart with values; return the last object of each kind."""
        return {one["kind"]: one for one in await self.created(values, folder)}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """A running Helm."""
    found = Helm(tmp_path_factory.mktemp("helm"))
    yield found
    found.close()


def example(name: str) -> dict[str, Any]:
    """Return the values of one of the examples."""
    found: dict[str, Any] = yaml.safe_load((CHART / f"ci/{name}-values.yaml").read_text())
    return found


def as_the_kubelet_does(objects: Objects, secrets: dict[str, str], folder: Path) -> Path:
    """Write the files of the pod's volume with their modes; return the path of the configuration."""
    (volume,) = [one for one in objects["DaemonSet"]["spec"]["template"]["spec"]["volumes"] if "projected" in one]
    for source in volume["projected"]["sources"]:
        if "configMap" in source:
            assert source["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
            for name, text in objects["ConfigMap"]["data"].items():
                write(folder / name, text, volume["projected"]["defaultMode"])
        else:
            assert source["secret"]["optional"]
            for item in source["secret"]["items"]:
                if item["key"] in secrets:
                    write(folder / item["path"], secrets[item["key"]], item["mode"])
    return folder / "qlb.yaml"


def write(path: Path, text: str, mode: int) -> None:
    """Write a file with a mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


class Volume:
    """The volume of a pod, as the kubelet mounts and updates it: all files change at once, by one symbolic link.

    replace: a text of the ConfigMap → another text, for paths that a test must not write to.
    """

    def __init__(self, folder: Path, replace: tuple[str, str]) -> None:
        """Create an empty volume. folder: does not exist yet."""
        self._folder, self._replace, self._count = folder, replace, 0
        folder.mkdir()

    def update(self, objects: Objects) -> Path:
        """Mount the objects of a release. Return the path of the configuration."""
        self._count += 1
        data, link = self._folder / f"..{self._count}", self._folder / "..new"
        data.mkdir()
        config = as_the_kubelet_does(objects, objects["Secret"]["stringData"], data)
        config.chmod(0o600)
        config.write_text(config.read_text().replace(*self._replace))
        link.symlink_to(data.name)
        link.rename(self._folder / "..data")
        for name in ("qlb.yaml", "keys"):
            if not (self._folder / name).is_symlink():
                (self._folder / name).symlink_to(f"..data/{name}")
        return self._folder / "qlb.yaml"


def with_server_ids(value: object) -> dict[str, Any]:
    """Return a configuration whose backend has this value in server_ids."""
    return {
        "listen": ["0.0.0.0:4433"],
        "backends": [{"name": "agent-a", "address": "10.0.0.11:4433", "server_ids": {"1": value}}],
    }


async def test_lint(helm: Helm, tmp_path: Path) -> None:
    """Lint reports no error, and no warning except the missing icon."""
    code, output = await helm.run("lint", "{}", tmp_path, CHART)
    assert (code, output) == (0, "severity 1: Chart.yaml\n")


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
async def test_examples(helm: Helm, path: Path, tmp_path: Path) -> None:
    """Every object is valid Kubernetes, and the daemon accepts the pod's files."""
    every = await helm.created(yaml.safe_load(path.read_text()), tmp_path)
    for one in every:
        if one["kind"] != "ServiceMonitor":  # a custom resource, unknown to the validator
            for release in RELEASES:
                kubernetes_validate.validate(one, release, strict=True)
    objects = {one["kind"]: one for one in every}
    secrets = {
        "1.hex": "00" * 16,
        "2.hex": "11" * 16,
        "hash.hex": "22" * 16,
        **objects.get("Secret", {}).get("stringData", {}),
    }
    config = load(as_the_kubelet_does(objects, secrets, tmp_path / "etc")).config
    assert config.reload_on_change
    (container,) = objects["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert config.admin.listen is not None
    assert config.admin.listen.port == container["readinessProbe"]["httpGet"]["port"]
    assert container["readinessProbe"]["httpGet"]["host"] == "127.0.0.1"
    for key in (tmp_path / "etc").glob("keys/*"):
        assert not key.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP)


@pytest.mark.parametrize(
    ("name", "root", "capabilities"),
    [
        ("minimal", False, None),
        ("monitoring", False, None),
        ("kubernetes", False, None),
        ("production", True, ["NET_BIND_SERVICE"]),
        ("xdp", True, ["BPF", "NET_ADMIN", "PERFMON"]),
    ],
)
async def test_pods_have_the_least_privileges(
    helm: Helm, name: str, root: bool, capabilities: list[str] | None, tmp_path: Path
) -> None:
    """Pods run as root only if they need capabilities, and then with those capabilities only."""
    spec = (await helm.installed(example(name), tmp_path))["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert (spec["securityContext"]["runAsUser"] == 0) is root is not spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"].get("add") == capabilities
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert spec["hostNetwork"]


async def test_rights_of_discovery(helm: Helm, tmp_path: Path) -> None:
    """The service account may list and watch EndpointSlices in the namespaces of the Services, and nothing else."""
    every = await helm.created(example("kubernetes"), tmp_path)
    (account,) = (one["metadata"]["name"] for one in every if one["kind"] == "ServiceAccount")
    roles = {one["metadata"]["namespace"]: one for one in every if one["kind"] == "Role"}
    bindings = {one["metadata"]["namespace"]: one for one in every if one["kind"] == "RoleBinding"}
    assert set(roles) == set(bindings) == {"voice", "elsewhere"}
    for namespace, role in roles.items():
        assert role["rules"] == [
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
        ]
        assert bindings[namespace]["roleRef"]["name"] == role["metadata"]["name"]
        assert bindings[namespace]["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    (spec,) = (one["spec"]["template"]["spec"] for one in every if one["kind"] == "DaemonSet")
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == (account, True)


@pytest.mark.parametrize(
    ("change", "account"),
    [
        ({}, (None, False)),
        ({"kubernetes": "voice/agents", "kubeconfig": "keys/kubeconfig"}, (None, False)),
        ({"kubernetes": "voice/agents"}, ("mine", True)),
    ],
    ids=["no source", "a kubeconfig", "an account of one's own"],
)
async def test_no_unneeded_rights(
    helm: Helm, change: dict[str, Any], account: tuple[str | None, bool], tmp_path: Path
) -> None:
    """Without a Kubernetes source the pods have no account; an existing account is only named."""
    values = example("minimal")
    source = {"name": "agents", "networks": ["10.0.0.0/8"], **change}
    values["config"]["discovery"] = [source] if change else []
    values["rbac"] = {"create": False, "serviceAccountName": "mine"}
    objects = await helm.installed(values, tmp_path)
    assert {"ServiceAccount", "Role", "RoleBinding"}.isdisjoint(objects)
    spec = objects["DaemonSet"]["spec"]["template"]["spec"]
    assert (spec.get("serviceAccountName"), spec["automountServiceAccountToken"]) == account


@pytest.mark.parametrize("server_ids", ["00000001", "1e05", ["00000001", "0000000A"]])
async def test_quoted_hex_is_preserved(helm: Helm, server_ids: str | list[str], tmp_path: Path) -> None:
    """Quoted hex has the same text in the values and in the pod's configuration."""
    length = 2 if server_ids == "1e05" else 4
    cid_configs = [{"config_id": 1, "server_id_length": length, "nonce_length": 12}]
    config = {**with_server_ids(server_ids), "cid_configs": cid_configs}
    objects = await helm.installed({**example("minimal"), "config": config}, tmp_path)
    loaded = load(as_the_kubelet_does(objects, {}, tmp_path / "etc")).config
    wanted = [server_ids] if isinstance(server_ids, str) else server_ids
    assert loaded.backends[0].server_ids[1] == tuple(map(bytes.fromhex, wanted))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keys": {"1.hex": "secret"}}, "'^[0-9A-Fa-f]{32}$'"),
        ({"keys": {"1.hex": "00" * 16}, "existingSecret": "mine"}, "either keys or existingSecret"),
        ({"serviceMonitor": {"enabled": True}}, "Prometheus cannot reach admin.host 127.0.0.1"),
        ({"config": {"listen": [], "backends": []}}, "/config/listen"),
        ({"config": {"listen": ["0.0.0.0:1"], "backends": [], "admin": {}}}, "/config/admin"),
        ({"replicas": 3}, "replicas"),
        ({"keys": {"1.hex": 10203040506070801020304050607080}}, "/keys/1.hex"),
        ({"config": with_server_ids(1)}, "/config/backends/0/server_ids/1"),
        ({"config": with_server_ids(1e5)}, "/config/backends/0/server_ids/1"),
        ({"config": with_server_ids(["00000001", 2])}, "/config/backends/0/server_ids/1/1"),
        ({"config": with_server_ids("1")}, "/config/backends/0/server_ids/1"),
        ({"config": {"listen": ["0.0.0.0:1"], "backends": [{"name": 8}]}}, "/config/backends/0/name"),
        (
            {"config": {"listen": ["0.0.0.0:1"], "backends": [], "cid_configs": [{"key": 1}]}},
            "/config/cid_configs/0/key",
        ),
        (
            {"config": {"listen": ["0.0.0.0:1"], "backends": [], "fallback": {"hash_key": 1}}},
            "/config/fallback/hash_key",
        ),
    ],
)
async def test_invalid_values(helm: Helm, change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Helm rejects invalid values with a reason, before it creates any object."""
    code, output, created = await helm.install({**example("minimal"), **change}, tmp_path)
    assert (code, created) == (1, [])
    assert reason in output


def test_the_runbook_has_the_commands_of_the_test() -> None:
    """The commands that the next test runs in the pod are those of the runbook."""
    page = (REPOSITORY / "docs/runbooks/rotation.md").read_text()
    section = page.partition("\n## On Kubernetes\n")[2].partition("\n## ")[0]
    for command in (PLAN, STATUS, "qlb server-config /etc/qlb/qlb.yaml agent-a"):
        assert f" -- {command}\n" in section
    assert f"qlb rotate abort {PLAN.split()[3]} --diff" in section


PLAN: Final = "qlb rotate next /etc/qlb/qlb.yaml --diff"
STATUS: Final = "qlb rotate status /etc/qlb/qlb.yaml"


class Pod:
    """A daemon on the files of a release, and the values of that release."""

    def __init__(self, helm: Helm, folder: Path, values: dict[str, Any]) -> None:
        """values: of the first release, which is not installed yet."""
        self._helm, self._folder, self.values = helm, folder, values
        self._volume = Volume(folder / "etc", ("/run/qlb/qlb.sock", str(folder / "qlb.sock")))
        self.path = folder / "etc/qlb.yaml"
        self.templates: list[Any] = []

    async def upgrade(self) -> None:
        """Install the chart with the values, and mount the objects as the kubelet does."""
        objects = await self._helm.installed(self.values, self._folder)
        self.templates.append(objects["DaemonSet"]["spec"]["template"])
        self._volume.update(objects)

    def command(self, line: str) -> list[str]:
        """Return a command of the runbook for this pod's files."""
        return [sys.executable, "-m", *line.replace("/etc/qlb/qlb.yaml", str(self.path)).split()]

    async def run(self, line: str) -> tuple[int, str, str]:
        """Run a command of the runbook in the pod. Return its exit code and its output on stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            *self.command(line),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "QLB_SOCKET": str(self._folder / "qlb.sock")},
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def until_safe(self) -> None:
        """Wait until the next step is safe, as every pod reports it."""
        while "the next step is safe" not in (await self.run(STATUS))[1]:
            await asyncio.sleep(scrape.POLL_S)

    async def plan(self) -> str:
        """Print the plan of the next step, and make its changes in `config` of the values, as an operator would."""
        code, _, plan = await self.run(PLAN)
        assert code == 0, plan
        _, printed, _ = await self.run(PLAN.replace("--diff", "--print"))
        config = yaml.load(printed, yaml.BaseLoader)
        for name in ("admin", "reload_on_change"):  # the chart sets them
            del config[name]
        self.values = {**self.values, "config": config}
        return plan


@pytest.mark.e2e
async def test_a_key_is_rotated_without_a_rollout(helm: Helm, tmp_path: Path) -> None:
    """Values and Secret rotate a key, as the runbook describes it. No pod restarts, and no call is lost."""
    service, admin = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    async with asyncio.timeout(LIMIT_S * 2), quic_servers(NAMES, PARAMS, Gates()) as servers:
        quiet = {"quiet_period": "2s"}
        config = configuration([service], [PARAMS], servers, rotation=quiet, drain=quiet)
        config["cid_configs"][0] |= {"key_file": "keys/1.hex"}
        del config["cid_configs"][0]["key"]
        key = (PARAMS.key or b"").hex()
        values = {"config": config, "keys": {"1.hex": key}, "admin": {"host": "127.0.0.1", "port": admin[1]}}
        pod = Pod(helm, tmp_path, values)
        await pod.upgrade()
        with (tmp_path / "log").open("wb") as log:
            daemon = await asyncio.create_subprocess_exec(*pod.command("qlb run /etc/qlb/qlb.yaml"), stderr=log)
        try:
            await until_ready(admin)
            await run_other_runbooks(pod)
            with Nat() as nat:
                await rotate_by_values(pod, nat, service, servers)
            assert [template == pod.templates[0] for template in pod.templates] == [True] * 4, "a pod would restart"
        finally:
            daemon.terminate()
            await daemon.wait()
        changed = [line for line in (tmp_path / "log").read_text().splitlines() if "INFO qlb reloaded" in line]
        assert len([line for line in changed if "no changes" not in line]) == 3


async def until_ready(admin: Address) -> None:
    """Wait until a daemon is ready."""
    while True:
        try:
            if (await scrape.get(admin, "/readyz"))[0] == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(scrape.POLL_S)


async def run_other_runbooks(pod: Pod) -> None:
    """Run the commands of qlb in the other runbooks as `kubectl exec` would, except those that need a terminal.

    In a pod, process 1 refuses `qlb upgrade`, and the rest of those pages is about systemd and the node.
    """
    for page in ("drain", "flood", "loss-of-a-node", "upgrade"):
        for line in runbooks.lines(runbooks.RUNBOOKS / f"{page}.md"):
            if line.startswith("qlb ") and line not in ("qlb top", "qlb upgrade"):
                code, _, err = await pod.run(line)
                assert code == 0, f"{page}: {line}: {err}"


async def rotate_by_values(pod: Pod, nat: Nat, service: Address, servers: list[QuicServerBehind]) -> None:
    """Perform the steps of the runbook, one Helm release each, while calls change their addresses."""
    async with in_progress([nat.port(service).address for _ in range(CALLS)]) as old_calls:
        plan = await pod.plan()
        assert "1. Add the new key to the Secret, as the entry 2.hex" in plan
        pod.values["keys"] = {**pod.values["keys"], "2.hex": new_key().hex()}
        await pod.upgrade()
        await pod.until_safe()
        nat.rebind_all()
        await old_calls.until_more()
        plan = await pod.plan()
        assert f"qlb server-config {pod.path} agent-a" in plan
        await pod.upgrade()
        for server in servers:
            await until_active(pod, 2)
            _, printed, _ = await pod.run(f"qlb server-config /etc/qlb/qlb.yaml {server.name}")
            assert server.rotation is not None
            server.rotation.rotate(generator_of(printed))
        nat.rebind_all()
        await old_calls.until_more()
    async with in_progress([nat.port(service).address for _ in range(CALLS)]) as new_calls:
        await pod.until_safe()
        plan = await pod.plan()
        assert "Remove the entry 1.hex from the Secret." in plan
        await pod.upgrade()
        while "config 1" in (await pod.run(STATUS))[1]:
            await asyncio.sleep(scrape.POLL_S)
        nat.rebind_all()
        await new_calls.until_more()
    assert old_calls.lost == new_calls.lost == []
    assert sum(server.accepted for server in servers) == 2 * CALLS, "a client has connected a second time"


async def until_active(pod: Pod, config_id: int) -> None:
    """Wait until the pod's daemon has a CID config in the state active."""
    while True:
        _, output, _ = await pod.run(f"qlb status --json --config {pod.path}")
        rows = json.loads(output)["cid_configs"]
        if any((row["config_id"], row["state"]) == (config_id, "active") for row in rows):
            return
        await asyncio.sleep(scrape.POLL_S)
