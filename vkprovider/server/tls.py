"""The serving certificate and the TLS contexts made of it.

Contexts are replaced, never changed: each new connection is given the current one (see ``listener``), so that a renewed
certificate or another client CA counts from the next connection on, without a restart.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import ssl
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vkprovider.aio.clock import Clock
from vkprovider.errors import ConfigurationError
from vkprovider.server.client_ca import CABundle, ClientCA

logger = logging.getLogger(__name__)

SELF_SIGNED_LIFETIME = timedelta(days=365)
SELF_SIGNED_RENEW_BEFORE = timedelta(days=73)
"""A fifth of the lifetime, as for other certificates of a kubelet."""
BACKDATED = timedelta(hours=1)
"""Certificates are valid a little before they are made, for clients whose clock is behind."""


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate chain and its key, as PEM bytes."""

    certificate_pem: bytes
    key_pem: bytes


class ServingCertificate(ABC):
    """Where the serving certificate comes from."""

    check_period_s: ClassVar[float] = 10.0
    """Seconds between two looks at it."""

    @abstractmethod
    def load(self) -> CertificatePair:
        """The pair to serve with now; blocking, called in a thread.

        Raises:
            ConfigurationError: There is none: what is wrong and what to do.
        """


class FileServingCertificate(ServingCertificate):
    """A certificate and a key in files that others renew.

    Args:
        certificate: PEM file with the certificate and its intermediates.
        key: PEM file with the key.

    Source: kubelet feature ReloadKubeletServerCertificateFile.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key

    def load(self) -> CertificatePair:
        """Read both files."""
        try:
            return CertificatePair(self._certificate.read_bytes(), self._key.read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"serving certificate cannot be read: {error}; check --tls-cert-file and --tls-private-key-file"
            ) from error


class SelfSignedServingCertificate(ServingCertificate):
    """A certificate of our own, kept under the node's directory and renewed in time.

    Args:
        directory: Directory for ``kubelet.crt`` and ``kubelet.key``; made with mode 0700.
        node_name: Common name, and DNS name in the SANs.
        ips: IP addresses in the SANs.
        clock: Time.

    Source: kubelet cmd/kubelet/app/server.go, InitializeTLS; ours is renewed while running.
    """

    check_period_s = 3600.0

    def __init__(self, directory: Path, *, node_name: str, ips: Sequence[str], clock: Clock) -> None:
        self._directory = directory
        self._node_name = node_name
        self._ips = tuple(ipaddress.ip_address(ip) for ip in ips)
        self._clock = clock

    @property
    def certificate_path(self) -> Path:
        """File of the certificate."""
        return self._directory / "kubelet.crt"

    @property
    def key_path(self) -> Path:
        """File of the key."""
        return self._directory / "kubelet.key"

    def load(self) -> CertificatePair:
        """The stored pair as long as it fits and lasts, else a new one."""
        try:
            pair = CertificatePair(self.certificate_path.read_bytes(), self.key_path.read_bytes())
        except OSError:
            return self._create("there is none yet")
        unfit = self._find_defect(pair)
        return self._create(unfit) if unfit else pair

    def _find_defect(self, pair: CertificatePair) -> str:
        try:
            certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
            key = serialization.load_pem_private_key(pair.key_pem, password=None)
        except (ValueError, TypeError):
            return "the stored one cannot be read"
        if certificate.public_key() != key.public_key():
            return "the stored key belongs to another certificate"
        if certificate.not_valid_after_utc - SELF_SIGNED_RENEW_BEFORE <= self._clock.now():
            return "the stored one ends soon"
        if certificate.not_valid_before_utc > self._clock.now():
            return "the stored one is not valid yet"
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return "the stored one names no host"
        known: set[object] = {*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.IPAddress)}
        return "" if {self._node_name, *self._ips} <= known else "the node's name or addresses changed"

    def _create(self, why: str) -> CertificatePair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock.now()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._node_name[:64])])
        sans = [x509.DNSName(self._node_name), *(x509.IPAddress(ip) for ip in self._ips)]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + SELF_SIGNED_LIFETIME)
            .add_extension(x509.SubjectAlternativeName(sans), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pair = CertificatePair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A crash between the two leaves a pair that does not match, which the next load finds and replaces.
            _write_atomically(self.key_path, pair.key_pem, mode=0o600)
            _write_atomically(self.certificate_path, pair.certificate_pem, mode=0o644)
        except OSError as error:
            raise ConfigurationError(
                f"serving certificate cannot be stored: {error}; make {self._directory} writable (--root-dir)"
            ) from error
        logger.info("Made a self-signed serving certificate: %s", why, extra={"path": str(self.certificate_path)})
        return pair


class ServerContext(ssl.SSLContext):
    """A TLS context that remembers which client CAs it was made with."""

    client_ca: CABundle | None = None


class ServerTLS:
    """Keeps the TLS context for new connections current.

    Args:
        serving: The serving certificate.
        client_ca: The client CAs.
    """

    def __init__(self, serving: ServingCertificate, client_ca: ClientCA) -> None:
        self._serving = serving
        self._client_ca = client_ca
        self._pair: CertificatePair | None = None
        self._context: ServerContext | None = None
        self._last_error = ""
        client_ca.on_change = self._rebuild

    @property
    def context(self) -> ServerContext:
        """The context for the next connection."""
        if self._context is None:
            raise RuntimeError("ServerTLS has not been started")
        return self._context

    async def start(self) -> None:
        """Load the certificate.

        Raises:
            ConfigurationError: It cannot be used.
        """
        self._pair = await asyncio.to_thread(self._serving.load)
        self._context = build_context(self._pair, self._client_ca.bundle)

    async def run(self) -> None:
        """Look for another certificate until cancelled; one that cannot be used leaves the last in force."""
        while True:
            await asyncio.sleep(self._serving.check_period_s)
            await self.refresh()

    async def refresh(self) -> None:
        """Load the certificate again and use it if it changed; errors are logged, once each."""
        try:
            pair = await asyncio.to_thread(self._serving.load)
            if pair != self._pair:
                self._context = build_context(pair, self._client_ca.bundle)
                self._pair = pair
                logger.info("Serving with a new certificate")
            self._last_error = ""
        except ConfigurationError as error:
            if str(error) != self._last_error:
                self._last_error = str(error)
                logger.warning("The serving certificate was not replaced: %s", error)

    def _rebuild(self) -> None:
        if self._pair is not None:
            self._context = build_context(self._pair, self._client_ca.bundle)


def build_context(pair: CertificatePair, client_ca: CABundle | None) -> ServerContext:
    """A context that serves with this certificate and asks clients for one of theirs if any CA is known.

    A client may come without a certificate (and is asked for a token then); one whose certificate is expired or of another
    CA fails the handshake. The kubelet lets it through and answers 401, which Python's TLS has no means to do.

    Raises:
        ConfigurationError: Certificate and key do not fit together, or cannot be read.
    """
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL reads certificate chains from files only.
    with tempfile.NamedTemporaryFile(prefix="vkprovider-", suffix=".pem") as file:
        file.write(pair.key_pem.rstrip() + b"\n" + pair.certificate_pem)
        file.flush()
        try:
            context.load_cert_chain(file.name, password=lambda: "")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"serving certificate and key cannot be used: {error}; both must be PEM, the key unencrypted and made for "
                "this certificate"
            ) from error
    if client_ca is not None:
        context.load_verify_locations(cadata=client_ca.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.client_ca = client_ca
    return context


def _write_atomically(path: Path, data: bytes, *, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
