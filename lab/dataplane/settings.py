"""Settings of a plane for tests and benchmarks: the defaults of the configuration, for one worker."""

from typing import Final

from qlb.dataplane.base import PlaneSettings

DEFAULTS: Final = PlaneSettings(
    session_timeout_s=120.0,
    routable_session_timeout_s=1800.0,
    workers=1,
    dscp=None,
    max_sessions=65_536,
    flow_table_size=65_536,
    flow_timeout_s=30.0,
    gso_to_backends=False,
)
