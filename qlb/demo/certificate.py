"""A certificate that signs itself, for demo backends and tests: EC P-256, localhost, made anew each time.

It proves nothing to anybody: a client must be told to trust it, or not to check.
"""

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DEFAULT_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_LIFETIME: Final = datetime.timedelta(days=10)
"""Browsers take a certificate by its hash alone where it is valid for 14 days at most."""
_CLOCK_SKEW: Final = datetime.timedelta(hours=1)


class Certificate(NamedTuple):
    """A self-signed certificate and its key, as aioquic's QuicConfiguration takes them."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate in PEM: what a client that checks must be given to trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def sha256(self) -> bytes:
        """The hash by which a browser can be told to trust it: serverCertificateHashes of WebTransport."""
        return self.certificate.fingerprint(hashes.SHA256())

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``certificate.pem`` and ``key.pem`` (mode 0600) into a folder; return their paths."""
        certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
        certificate_path.write_bytes(self.pem)
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            self.private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_path, key_path


def make_certificate(names: Iterable[str] = DEFAULT_NAMES) -> Certificate:
    """Make a certificate that is valid from an hour ago, for 10 days, for these host names and IP literals."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "qlb demo")])
    begin = datetime.datetime.now(datetime.UTC) - _CLOCK_SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private_key, hashes.SHA256())
    )
    return Certificate(certificate, private_key)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
