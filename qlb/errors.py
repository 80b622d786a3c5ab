"""The exceptions of qlb, split by whose fault it is. The packet path raises none of them."""


class QlbError(Exception):
    """Anything that qlb reports by raising."""


class ConfigError(QlbError, ValueError):
    """The configuration is wrong; the operator mends it.

    problems: each one line, ``FILE:LINE:COLUMN: message``, in the order of the file.
    """

    def __init__(self, *problems: str) -> None:
        """Keep every problem; ``str()`` prints them one a line."""
        super().__init__("\n".join(problems))
        self.problems = problems


class CidError(QlbError, ValueError):
    """A connection ID, or the parameters of a connection ID scheme, break the draft's rules."""


class NonceExhausted(CidError):
    """Every nonce of a generator has been used: rotate to another config ID with a new key.

    Spec: draft-ietf-quic-load-balancers, section "Connection ID Entropy".
    """


class PlaneUnavailable(QlbError):
    """The data plane or mode that was asked for cannot run here; the text names what is missing."""


class BackendError(QlbError):
    """A backend did not answer as a QUIC server must."""
