"""The program is detached from its interface by another program: qlb notices and attaches it again."""

import os
import subprocess

import pytest

from lab.namespace import inside, network_of_its_own, open_network
from lab.xdp.scene import BACKENDS, Scene, allow_forwarding, forward, pool, set_gro
from qlb.dataplane.xdp.libbpf import XDP_REDIRECT, library
from qlb.dataplane.xdp.plane import XdpPlane
from tests.dataplane.xdp.test_plane import attached, frame_to

pytestmark = pytest.mark.toolchain


def detach_by_force(plane: XdpPlane) -> None:
    """Detach as `bpftool link detach` does. The kernel rejects `ip link set dev in0 xdp off`."""
    (attachment,) = plane._interfaces._attachments
    link = attachment._link
    assert link is not None
    assert library().bpf_link_detach(link.fd) == 0
    assert attached("in0") == ""


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("attach", ["native", "generic"])
def test_a_detached_program_is_attached_again(scene: Scene, attach: str, keep: bool) -> None:
    """The next watch() attaches a detached program again, in the same mode and with its pin."""
    plane = scene.plane("ipip", pool(BACKENDS[4]), attach=attach, keep=keep)
    plane.start()
    assert (plane.watch().restored, plane.watch().losses) == ((), ())
    detach_by_force(plane)
    found = plane.watch()
    assert (found.restored, found.losses) == (("in0",), ())
    assert attached("in0") == attach
    assert (plane.watch().restored, plane.watch().losses) == ((), ())
    plane.stop()
    assert attached("in0") == (attach if keep else "")
    if keep:
        after = scene.plane("ipip", pool(BACKENDS[4]))
        after.start()
        after.stop()
        assert attached("in0") == ""


def test_ip_link_cannot_detach_it(scene: Scene) -> None:
    """The kernel protects a program that is attached by a BPF link."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    plane.start()
    for mode in ("xdp", "xdpdrv", "xdpgeneric"):
        subprocess.run(["ip", "link", "set", "dev", "in0", mode, "off"], capture_output=True)
    assert attached("in0") == "native"
    assert plane.watch().losses == ()


def test_another_program_on_the_interface(scene: Scene) -> None:
    """Another program on the interface is reported as long as it is there; then qlb's program is attached again."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    plane.start()
    detach_by_force(plane)
    other = scene.plane("gue", pool(BACKENDS[4]))
    other.start()
    for _ in range(2):
        (loss,) = plane.watch().losses
        assert "in0: the program was detached and cannot be attached again" in loss
        assert "it has another XDP program" in loss
    other.stop()
    assert plane.watch().restored == ("in0",)


def test_the_program_of_a_new_process_is_left_alone(scene: Scene) -> None:
    """If another qlb process has replaced the program, the old process reports it and changes nothing."""
    first = scene.plane("ipip", pool(BACKENDS[4]), keep=True)
    first.start()
    second = scene.plane("ipip", pool(BACKENDS[4]), keep=True)
    second.start()
    for _ in range(2):
        assert "another program has replaced" in first.watch().losses[0]
        assert second.watch().losses == ()
    second.stop()
    last = scene.plane("ipip", pool(BACKENDS[4]))
    last.start()
    last.stop()


def test_an_interface_that_goes_and_comes_back(scene: Scene) -> None:
    """A missing interface is a loss. A new interface of the same name gets the program again."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    plane.start()
    subprocess.run(["ip", "link", "del", "in0"], check=True)
    assert "there is no network interface in0" in plane.watch().losses[0]
    subprocess.run("ip link add in0 type veth peer name in1 && ip link set in0 up", shell=True, check=True)
    set_gro("in1")
    assert plane.watch().restored == ("in0",)
    assert attached("in0") == "native"
    allow_forwarding("in0", "ipv4")
    plane.watch()
    assert forward(plane, frame_to(0)).action == XDP_REDIRECT


def test_an_interface_that_is_moved_away(scene: Scene) -> None:
    """If the interface is moved to another network, the program is detached from it and the loss is reported."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    plane.start()
    with open_network() as here, network_of_its_own():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        there = open_network()
        with there, inside(here.fileno()):
            path = f"/proc/{os.getpid()}/fd/{there.fileno()}"
            subprocess.run(["ip", "link", "set", "in0", "netns", path], check=True)
            assert "there is no network interface in0" in plane.watch().losses[0]
        assert attached("in0") == ""


@pytest.mark.parametrize("command", ["link set in0 down", "link set in1 down"])
def test_an_interface_without_incoming_packets(scene: Scene, command: str) -> None:
    """An interface that is down or without carrier is reported as idle; the plane is isolated if there is no other."""
    one, both = scene.plane("ipip", pool(BACKENDS[4])), scene.plane("ipip", pool(BACKENDS[4]), ("in0", "out0"))
    assert [(found.idle, found.is_isolated) for found in (one.watch(), both.watch())] == 2 * [((), False)]
    subprocess.run(["ip", "-batch", "-"], input=command, text=True, check=True)
    found = one.watch()
    assert found.idle == ("in0: the interface is down or has no carrier, so no packets arrive",)
    assert found.is_isolated
    assert (both.watch().idle, both.watch().is_isolated) == (found.idle, False)


def test_nothing_is_attached_before_the_start(scene: Scene) -> None:
    """Before start(), watch() attaches nothing, because the old process of a handover may still forward."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    assert (plane.watch().restored, plane.watch().losses) == ((), ())
    assert attached("in0") == ""
