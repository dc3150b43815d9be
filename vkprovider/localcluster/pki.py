"""The cluster's certificate authority, certificates and keys, kept in a directory between runs.

Files follow kubeadm's names: ``ca.crt``, ``ca.key``, ``apiserver.crt``, ``sa.key``, ``admin.crt`` and so on. Keys are
ECDSA P-256 and readable by their owner only. Everything here blocks on files: call it in a thread.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vkprovider.errors import ConfigurationError

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
RENEW_BEFORE_DAYS: Final = 30
_BACKDATE: Final = timedelta(minutes=5)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, replacing an old one in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The ECDSA key of a file, made when the file is not there.

    Raises:
        ConfigurationError: The file holds something else.
    """
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"{path} holds no ECDSA key; remove the directory to have it made anew")
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(path, _pem_key(key))
    return key


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path


class CertificateAuthority:
    """Signs certificates for servers, clients and signing requests.

    Args:
        directory: Where files are; made when it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = load_or_make_key(directory / "ca.key")
        self.certificate_path: Final = directory / "ca.crt"
        if self.certificate_path.exists():
            self.certificate = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        else:
            self.certificate = self._make_root()
            self.certificate_path.write_bytes(self.pem)

    @property
    def pem(self) -> bytes:
        """The authority's certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def _make_root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vkprovider-local-cluster-ca")])
        now = datetime.now(UTC)
        public = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def sign(
        self,
        subject: x509.Name,
        public_key: CertificatePublicKeyTypes,
        *,
        client: bool,
        server: bool,
        names: Sequence[x509.GeneralName] = (),
        valid_for: timedelta = timedelta(days=LEAF_DAYS),
    ) -> bytes:
        """A certificate in PEM.

        Args:
            subject: Whom it names.
            public_key: Whose key it binds.
            client: Whether it is good for client authentication.
            server: Whether it is good for server authentication.
            names: Subject alternative names.
            valid_for: Lifetime; cut to the authority's own.
        """
        now = datetime.now(UTC)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(min(now + valid_for, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def ensure_server(self, name: str, hosts: Iterable[str]) -> CertificateFiles:
        """Serving certificate for these host names and addresses; made anew when it is near its end or lacks one."""
        names = [_general_name(host) for host in dict.fromkeys(hosts)]
        files = self._files(name)
        if not self._is_good(files, names):
            self._make(files, _subject(name, ()), client=False, server=True, names=names)
        return files

    def ensure_client(self, name: str, user: str, groups: Sequence[str] = ()) -> CertificateFiles:
        """Client certificate for a user; made anew when it is near its end or names someone else."""
        files = self._files(name)
        subject = _subject(user, groups)
        if not self._is_good(files, (), subject):
            self._make(files, subject, client=True, server=False, names=())
        return files

    def _files(self, name: str) -> CertificateFiles:
        return CertificateFiles(self.directory / f"{name}.crt", self.directory / f"{name}.key")

    def _make(
        self,
        files: CertificateFiles,
        subject: x509.Name,
        *,
        client: bool,
        server: bool,
        names: Sequence[x509.GeneralName],
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(files.key, _pem_key(key))
        files.certificate.write_bytes(self.sign(subject, key.public_key(), client=client, server=server, names=names))

    def _is_good(
        self, files: CertificateFiles, names: Sequence[x509.GeneralName], subject: x509.Name | None = None
    ) -> bool:
        if not files.certificate.exists() or not files.key.exists():
            return False
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=RENEW_BEFORE_DAYS):
            return False
        if subject is not None and certificate.subject != subject:
            return False
        if names:
            present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            return set(names) <= set(present)
        return True


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not sign,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(user: str, groups: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
