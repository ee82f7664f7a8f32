"""An authority that signs certificates for this machine, by address; its name is in none of them."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """Signs certificates into `folder`; `file` is its own."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self._sign(self.name, None)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def certificate(self, name: str, days: int = 1) -> tuple[Path, Path]:
        """Return a certificate that is valid for so many days, and its key, for this machine."""
        self._sign(name, self.name, days)
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def in_one_file(self, name: str) -> Path:
        """Return a file with a certificate and its key, as clients are given them."""
        certificate, key = self.certificate(name)
        both = self.folder / f"{name}.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        return both

    def _sign(self, name: str, by: str | None, days: int = 1) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer, issuer = key, subject
        if by is not None:
            loaded = serialization.load_pem_private_key((self.folder / f"{by}.key").read_bytes(), None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            signer, issuer = loaded, x509.load_pem_x509_certificate(self.file.read_bytes()).subject
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .sign(signer, hashes.SHA256())
        )
        (self.folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (self.folder / f"{name}.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
