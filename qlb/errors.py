"""The exceptions of qlb, one for each party that can correct the fault. The packet path raises none of them."""


class QlbError(Exception):
    """Base class of every exception that qlb raises on purpose."""


class ConfigError(QlbError, ValueError):
    """An invalid configuration, which the operator must correct.

    problems: one line each, ``FILE:LINE:COLUMN: message``, in the order of the file.
    """

    def __init__(self, *problems: str) -> None:
        """Store the problems; ``str()`` of the error prints one per line."""
        super().__init__("\n".join(problems))
        self.problems = problems


class CidError(QlbError, ValueError):
    """A connection ID, or a parameter of a CID config, that breaks the draft's rules."""


class NonceExhausted(CidError):
    """A generator has used every nonce: rotate to another config ID with a new key.

    Spec: draft-ietf-quic-load-balancers, section "Connection ID Entropy".
    """


class PlaneUnavailable(QlbError):
    """The requested data plane or mode cannot run here; the message names the missing requirement."""


class BackendError(QlbError):
    """A backend did not answer as a QUIC server must."""
