"""A source of connection IDs that goes from one configuration to the next while its server runs.

Live connections keep the IDs that they hold; whatever is issued from now on comes from the new configuration. Stacks
that read short headers with one fixed length ask that both have the same cid_length.

Spec: draft-ietf-quic-load-balancers, section "Configuration Rotation".
"""

from qlb.cid.generator import CidGenerator
from qlb.cid.params import CidParams


class RotatingGenerator:
    """What generates IDs now; the next one takes its place between two IDs."""

    __slots__ = ("_for_retry", "_generator")

    def __init__(self, generator: CidGenerator) -> None:
        """Begin with a generator."""
        self._generator = generator
        self._for_retry = False

    @property
    def params(self) -> CidParams:
        """What the next ID is made by."""
        return self._generator.params

    @property
    def used(self) -> int:
        """Nonces that the present generator has used."""
        return self._generator.used

    @property
    def left(self) -> int:
        """Nonces that the present generator has left: export it, and rotate in time."""
        return self._generator.left

    def generate(self) -> bytes:
        """Return a connection ID of params.cid_length octets, first octet included.

        Raises NonceExhausted where the present generator does.
        """
        return self._generator.generate()

    def reserve_for_retry(self) -> None:
        """Set nonces aside for Retry packets, in the present generator and in each that follows."""
        self._for_retry = True
        self._generator.reserve_for_retry()

    def generate_retry(self) -> bytes:
        """Return an ID for a Retry packet, as the present generator makes it. Never raises."""
        return self._generator.generate_retry()

    def rotate(self, generator: CidGenerator) -> None:
        """Issue from another generator from now on.

        It must have another config ID or key, and every balancer must decode it already. Nothing of it is checked, and
        nothing is raised.
        Spec: draft-ietf-quic-load-balancers, section "Configuration Rotation".
        """
        if self._for_retry:
            generator.reserve_for_retry()
        self._generator = generator
