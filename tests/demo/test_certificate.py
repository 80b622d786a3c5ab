"""Tests of the demo certificate."""

import hashlib
import ipaddress
import stat
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from qlb.demo.http3 import make_certificate


def test_it_names_localhost_in_every_form() -> None:
    """By default the certificate is valid for localhost and both loopback addresses."""
    names = make_certificate().certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]


def test_written_files_load_again_and_the_key_is_private(tmp_path: Path) -> None:
    """The certificate and the key are written as PEM, and only the owner can read the key."""
    made = make_certificate(["example.test"])
    certificate_path, key_path = made.write(tmp_path)
    assert x509.load_pem_x509_certificate(certificate_path.read_bytes()) == made.certificate
    key = load_pem_private_key(key_path.read_bytes(), password=None)
    assert key.public_key() == made.certificate.public_key()
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600


def test_a_browser_can_accept_it_by_its_hash() -> None:
    """The key is on P-256, the certificate is valid for 14 days at most, and its hash is SHA-256 of its DER form."""
    made = make_certificate()
    certificate = made.certificate
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= timedelta(days=14)
    assert made.private_key.curve.name == "secp256r1"
    assert made.sha256 == hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
