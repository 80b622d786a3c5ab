"""Where a rotation is: the states of the configurations and their silence become a phase and the next step.

A rotation leads from one QUIC-LB configuration to the next. staged: every balancer is to decode the new one; servers
issue from the old one. retiring: servers issue from the new one; packets still carry the old one. done: for a whole
quiet period none has. Which state a configuration has stands in the YAML, so nothing is kept anywhere else.

Spec: draft-ietf-quic-load-balancers, section "Configuration Rotation" and "Security Considerations".
"""

from collections.abc import Sequence
from typing import NamedTuple

from qlb.observe.reading import RotationReading


class Seen(NamedTuple):
    """One configuration. state: ``staged``, ``active``, ``retiring``. silence_s: since an ID under it was routed, or
    since the daemon began where none was.
    """

    config_id: int
    state: str
    silence_s: float


def read_rotation(configs: Sequence[Seen], quiet_period_s: float) -> RotationReading:
    """Return where the rotation is."""
    by_state = {state: [one for one in configs if one.state == state] for state in ("staged", "active", "retiring")}
    staged, active, retiring = by_state["staged"], by_state["active"], by_state["retiring"]
    current = active[-1].config_id if active else None
    if staged:
        new = staged[0].config_id
        text = f"config {new} is decoded here; when every balancer does so, `qlb rotate` makes it active"
        return RotationReading(phase="staged", from_config_id=current, to_config_id=new, next_step=text)
    if not retiring:
        return RotationReading(phase="idle")
    loudest = min(retiring, key=lambda one: one.silence_s)
    old = loudest.config_id
    if loudest.silence_s < quiet_period_s:
        text = (
            f"give every server its new configuration (`qlb server-config`); config {old} may go after "
            f"{quiet_period_s:g} s of silence, and it has been silent for {loudest.silence_s:.0f} s"
        )
        return RotationReading(phase="retiring", from_config_id=old, to_config_id=current, next_step=text)
    text = f"config {old} has been silent for {loudest.silence_s:.0f} s: `qlb rotate` removes it"
    return RotationReading(phase="done", from_config_id=old, to_config_id=current, next_step=text)
