"""Sources of connection IDs: the protocols that an adapter relies on, and a source that can rotate.

An adapter for a QUIC server depends on CidSource only. CidGenerator and RotatingGenerator satisfy it, and so can a
source of your own.
"""

from typing import Protocol, runtime_checkable

from qlb.cid.generator import CidGenerator
from qlb.cid.params import CidParams


class CidSource(Protocol):
    """A source of connection IDs for one server.

    The length of the IDs, ``params.cid_length`` (octets), must stay the same for the life of the server.
    """

    @property
    def params(self) -> CidParams:
        """The CID config of the next ID."""

    def generate(self) -> bytes:
        """Return a new ID, first octet included. Raises NonceExhausted when no ID is left."""


@runtime_checkable
class RetryCidSource(CidSource, Protocol):
    """A source with separate IDs for Retry packets. CidGenerator and RotatingGenerator are such sources.

    A server that sends Retry packets uses these IDs in them. With a plain CidSource, its Retry packets carry
    unroutable IDs, and balancers forward the client's next Initial by its 4-tuple.
    Spec: RFC 9000, section 8.1.2.
    """

    def reserve_for_retry(self) -> None:
        """Reserve IDs for Retry packets. Called once, before the first packet."""

    def generate_retry(self) -> bytes:
        """Return an ID for the Source Connection ID of a Retry packet, first octet included. Never raises."""


class RotatingGenerator:
    """A source that issues from one generator at a time; ``rotate`` replaces that generator between two IDs."""

    __slots__ = ("_for_retry", "_generator")

    def __init__(self, generator: CidGenerator) -> None:
        """Start with a generator."""
        self._generator = generator
        self._for_retry = False

    @property
    def params(self) -> CidParams:
        """The CID config of the next ID."""
        return self._generator.params

    @property
    def used(self) -> int:
        """The number of nonces that the current generator has used."""
        return self._generator.used

    @property
    def left(self) -> int:
        """The number of nonces that the current generator has left. Monitor it, and rotate before it reaches 0."""
        return self._generator.left

    def generate(self) -> bytes:
        """Return a connection ID of params.cid_length octets, first octet included.

        Raises NonceExhausted as the current generator does.
        """
        return self._generator.generate()

    def reserve_for_retry(self) -> None:
        """Reserve nonces for Retry packets, in the current generator and in every later one."""
        self._for_retry = True
        self._generator.reserve_for_retry()

    def generate_retry(self) -> bytes:
        """Return an ID for a Retry packet from the current generator. Never raises."""
        return self._generator.generate_retry()

    def rotate(self, generator: CidGenerator) -> None:
        """Issue from another generator from now on.

        It must have another config ID or key, and every balancer must already decode its IDs. This method checks
        nothing and never raises.
        Spec: draft-ietf-quic-load-balancers, section "Configuration Rotation".
        """
        if self._for_retry:
            generator.reserve_for_retry()
        self._generator = generator
