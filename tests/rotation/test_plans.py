"""The printed plan of a step: its tasks, their order, and the command that verifies each."""

from pathlib import Path

import pytest

from qlb.rotation.key_place import KeyPlace
from qlb.rotation.plans import PlanFacts, Way, find_way, write_plan

CONFIG = Path("/etc/qlb/qlb.yaml")
STAGED = PlanFacts("stage", "files", "config 2 is staged", CONFIG, ["+ a line"])


def test_a_plan_for_files() -> None:
    """The key comes first, then the change, then its check and reload, each with its proof."""
    plan = write_plan(STAGED._replace(new_key=KeyPlace(Path("/etc/qlb/keys/2.hex"), "keys/2.hex")))
    assert (
        plan
        == """\
plan: config 2 is staged
1. Create the new key, and copy it to every balancer (mode 0600):
     qlb keygen /etc/qlb/keys/2.hex
   Verify:
     ls -l /etc/qlb/keys/2.hex
2. On every balancer, make these changes in /etc/qlb/qlb.yaml:
     + a line
3. On every balancer, check and load it:
     qlb check /etc/qlb/qlb.yaml
     qlb reload --config /etc/qlb/qlb.yaml
   Verify:
     qlb rotate status /etc/qlb/qlb.yaml    # every balancer decodes the new CID config
4. When the next step is safe, print its plan:
     qlb rotate next /etc/qlb/qlb.yaml --print
   Verify:
     qlb rotate status /etc/qlb/qlb.yaml"""
    )


def test_a_plan_for_systemd() -> None:
    """A new credential needs a restart, after a check with the credentials that the daemon would get."""
    place = KeyPlace(Path("/etc/qlb/keys/2.hex"), "credential:keys_2.hex", by_systemd=True)
    plan = write_plan(STAGED._replace(way="systemd", new_key=place))
    assert "; systemd will pass it as credential:keys_2.hex:\n     qlb keygen /etc/qlb/keys/2.hex\n" in plan
    assert "     systemctl start qlb-check    # with the credentials that qlb would get\n" in plan
    assert "     systemctl restart qlb\n" in plan
    assert "reload" not in plan
    later = write_plan(STAGED._replace(way="systemd", kind="issue", servers=("agent-a", "agent-b")))
    assert "     qlb check /etc/qlb/qlb.yaml\n     systemctl reload qlb\n" in later
    assert "restart" not in later
    assert "     qlb server-config /etc/qlb/qlb.yaml agent-b\n" in later


def test_a_plan_for_kubernetes() -> None:
    """In a pod the Secret comes first, then the values; nothing is written in the pod."""
    plan = write_plan(STAGED._replace(way="kubernetes", new_key=KeyPlace(Path("/etc/qlb/keys/2.hex"), "keys/2.hex")))
    assert plan.index("Add the new key to the Secret, as the entry 2.hex") < plan.index("run `helm upgrade`")
    assert "     ls /etc/qlb/keys/2.hex\n" in plan
    assert "Ask in every pod:\n   Verify:\n     qlb rotate status /etc/qlb/qlb.yaml" in plan
    assert "qlb keygen /etc" not in plan


def test_a_plan_that_removes() -> None:
    """The old key is deleted last, when no daemon needs it."""
    plan = write_plan(STAGED._replace(kind="remove", old_key="/etc/qlb/keys/1.hex"))
    assert plan.splitlines()[-1] == "3. Delete the old key: /etc/qlb/keys/1.hex."
    assert "# no balancer has the removed CID config" in plan
    plan = write_plan(STAGED._replace(kind="remove", way="kubernetes", old_key="/etc/qlb/keys/1.hex"))
    assert plan.splitlines()[-1] == "3. Remove the entry 1.hex from the Secret."


@pytest.mark.parametrize(
    ("by_systemd", "in_a_pod", "way"),
    [(False, False, "files"), (False, True, "kubernetes"), (True, False, "systemd"), (True, True, "systemd")],
)
def test_how_files_get_to_the_daemon(
    monkeypatch: pytest.MonkeyPatch, by_systemd: bool, in_a_pod: bool, way: Way
) -> None:
    """Credentials mean systemd, and a container of Kubernetes is recognised by its environment."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if in_a_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert find_way(by_systemd=by_systemd) == way
