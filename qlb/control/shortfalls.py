"""Where the system grants less than the configuration asks for: told in the log, with the way out."""

import logging
from collections.abc import Iterable

from qlb.config.model import Config
from qlb.dataplane import probe
from qlb.dataplane.addresses import is_local
from qlb.dataplane.limits import descriptor_shortfall, port_shortfall, read_limits
from qlb.dataplane.sockets import receive_buffer_shortfall, send_buffer_shortfall
from qlb.routing.backends import Endpoint

log = logging.getLogger("qlb")


class Shortfalls:
    """What one daemon has told of them."""

    def __init__(self, plane: str) -> None:
        """plane: that forwards."""
        self._plane = probe.PLANES[plane]
        self._told: set[str | None] = set()

    def check_address(self, key: str, endpoint: Endpoint | None) -> None:
        """Warn of an address that is bound though packets to it do not reach this machine now. key: where it is set."""
        if endpoint is not None and not is_local(endpoint):
            log.warning(
                "%s: %s is not an address of this machine now; qlb receives from the moment that it is added "
                "(forwarding.freebind: false makes this an error)",
                key,
                endpoint,
            )

    def check_buffers(self, config: Config, receive_bytes: Iterable[int], send_bytes: Iterable[int]) -> None:
        """Log a warning for buffers that are smaller than configured.

        receive_bytes, send_bytes: granted to one worker's listeners; the other workers have the same.
        """
        for shortfall in (
            receive_buffer_shortfall(config.forwarding.receive_buffer, min(receive_bytes)),
            send_buffer_shortfall(config.forwarding.send_buffer, min(send_bytes)),
        ):
            if shortfall is not None:
                log.warning(shortfall)

    def check_sessions(self, config: Config, workers: int) -> None:
        """Tell where the system allows fewer sessions than max_sessions; again only when that has changed."""
        limits, forwarding = read_limits(), config.forwarding
        descriptors = descriptor_shortfall(forwarding.max_sessions, limits)
        uses = len(config.backends) if self._plane.shares_ports else 1
        ports = port_shortfall(forwarding.max_sessions, workers, max(uses, 1), limits)
        # A bound that nobody has asked for is above the ports of every Linux as it comes: no reason to warn.
        port_level = logging.WARNING if "max_sessions" in forwarding.model_fields_set else logging.INFO
        told, self._told = self._told, {descriptors, ports}
        for level, text in ((logging.WARNING, descriptors), (port_level, ports)):
            if text is not None and text not in told:
                log.log(level, text)
