"""Sources of connection IDs: the protocols that an adapter relies on, and a source that can rotate.

An adapter for a QUIC server depends on CidSource only. CidGenerator and RotatingCidGenerator satisfy it, and so can a
source of your own.
"""

import os
from typing import TYPE_CHECKING, Final, Protocol, TypedDict, runtime_checkable

from qlb.cid.generator import CidGenerator, OnExhaustion, WorkerTag
from qlb.cid.params import CidParams
from qlb.errors import CidError

if TYPE_CHECKING:
    from qlb.cid.files import Follower
    from qlb.cid.server_config import ServerConfig

_KNOWN: Final = 8
"""Generators that a source remembers, so that a server that returns to a CID config does not repeat its nonces."""


class _Options(TypedDict, total=False):
    """Arguments of CidGenerator that stay the same when it is replaced."""

    worker: WorkerTag | None
    nonce_key: bytes | str | None
    on_exhaustion: OnExhaustion


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
    """A source with separate IDs for Retry packets. CidGenerator and RotatingCidGenerator are such sources.

    A server that sends Retry packets uses these IDs in them. With a plain CidSource, its Retry packets carry
    unroutable IDs, and balancers forward the client's next Initial by its 4-tuple.
    Spec: RFC 9000, section 8.1.2.
    """

    def reserve_for_retry(self) -> None:
        """Reserve IDs for Retry packets. Called once, before the first packet."""

    def generate_retry(self) -> bytes:
        """Return an ID for the Source Connection ID of a Retry packet, first octet included. Never raises."""


class RotatingCidGenerator:
    """A source that issues from one generator at a time; ``rotate`` replaces that generator between two IDs.

    With ``from_file`` it rotates by itself, whenever the file with its parameters changes.
    """

    __slots__ = ("__weakref__", "_follower", "_for_retry", "_generator", "_known", "_options", "_server_id_index")

    def __init__(self, generator: CidGenerator) -> None:
        """Start with a generator."""
        self._generator = generator
        self._for_retry = False
        self._follower: Follower | None = None
        self._server_id_index = 0
        self._options: _Options = {}
        self._known = {(generator.params, generator.server_id): generator}

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        on_sighup: bool = True,
        server_id_index: int = 0,
        worker: WorkerTag | None = None,
        nonce_key: bytes | str | None = None,
        on_exhaustion: OnExhaustion = "raise",
    ) -> "RotatingCidGenerator":
        """Return a source with the parameters in a file that ``qlb server-config`` has printed, and follow the file.

        A thread looks at the file once a second. When the file has changed, IDs come from the new parameters, one to
        two seconds later. A file that is wrong changes nothing, and the log (``qlb.cid``) has the reason. So does a
        file with another cid_length, because a QUIC server parses all IDs with one length.
        path: a regular file, as for CidGenerator.from_file(), which also describes server_id_index, worker, nonce_key
        and on_exhaustion. on_sighup: read the file at each SIGHUP too, if this is called in the main thread; an
        earlier handler of SIGHUP that was written in Python still runs. ``close`` ends the following.
        Raises CidError, which names the file and the key, if the file cannot be read or is wrong.
        """
        from qlb.cid.files import Follower, load  # the only module of this floor that reads files

        options: _Options = {"worker": worker, "nonce_key": nonce_key, "on_exhaustion": on_exhaustion}
        params, server_id = load(path, None, server_id_index, is_followed=True)
        rotating = cls(CidGenerator(params, server_id, **options))
        rotating._options, rotating._server_id_index = options, server_id_index
        rotating._follower = Follower(path, rotating._receive)
        rotating._follower.start(on_sighup=on_sighup)
        return rotating

    def close(self) -> None:
        """Follow the file no longer. The source still issues IDs."""
        if self._follower is not None:
            self._follower.stop()

    @property
    def params(self) -> CidParams:
        """The CID config of the next ID."""
        return self._generator.params

    @property
    def server_id(self) -> bytes:
        """The server ID in the next ID."""
        return self._generator.server_id

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

    def _receive(self, config: "ServerConfig") -> str:
        """Apply the parameters of a changed file; return the change in words, "" if nothing has changed.

        Raises CidError if this server cannot issue from them.
        """
        old = self._generator
        params, server_id = config.choose(None, self._server_id_index)
        if (params, server_id) == (old.params, old.server_id):
            return ""
        if params.cid_length != old.params.cid_length:
            raise CidError(
                f"cid_length is {params.cid_length}, and this server was started with {old.params.cid_length}: "
                "restart it, or give all CID configs one cid_length"
            )
        new = self._known.pop((params, server_id), None) or CidGenerator(params, server_id, **self._options)
        self._known = dict(list(self._known.items())[1 - _KNOWN :]) | {(params, server_id): new}
        self.rotate(new)
        return f"config {params.config_id} ({params.fingerprint}) replaces config {old.params.config_id}"


RotatingGenerator: Final = RotatingCidGenerator
"""The former name of RotatingCidGenerator."""
