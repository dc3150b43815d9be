"""The certificate authorities that client certificates are checked against, and how they are kept current.

A source is read again and again by ``ClientCA.run``; a changed bundle counts for connections made from then on, and the
identities of older connections are checked against it with each request (``ClientCA.accepts``).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from vkprovider.errors import ConfigurationError, KubeAPIError, TransientError, VkproviderError
from vkprovider.server.reviews import KubeRequester

logger = logging.getLogger(__name__)

CONFIG_MAP_PATH = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
CONFIG_MAP_KEY = "client-ca-file"
FIRST_READ_TIMEOUT_S = 5.0
FIRST_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class CABundle:
    """One state of the authorities: their PEM text and the same parsed. Compared by identity."""

    pem: str
    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def parse(cls, pem: str, origin: str) -> CABundle:
        """Read PEM text.

        Args:
            pem: One or more certificates; other text is passed over.
            origin: Where it is from, for the error.

        Raises:
            ConfigurationError: There is no certificate in it, or one that cannot be read.
        """
        try:
            certificates = tuple(x509.load_pem_x509_certificates(pem.encode()))
        except ValueError as error:
            raise ConfigurationError(f"{origin}: no certificate authority can be read from it: {error}") from error
        return cls(pem, certificates)


class ClientCASource(ABC):
    """Where the authorities come from."""

    period_s: ClassVar[float]
    """Seconds between two reads."""
    max_retry_s: ClassVar[float]
    """Longest pause between failed reads, in seconds."""

    @abstractmethod
    async def read(self) -> tuple[str, str]:
        """PEM text as it is now, and where it is from, for messages.

        Raises:
            VkproviderError: It cannot be read; the message says why and what to do.
        """


class ClientCAFile(ClientCASource):
    """Authorities in a file, read anew when it changes.

    Args:
        path: The file.

    Source: apiserver dynamiccertificates.DynamicFileCAContent.
    """

    period_s = 5.0
    max_retry_s = 5.0

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> tuple[str, str]:
        """The file's text."""
        try:
            return await asyncio.to_thread(self._path.read_text), f"client CA file {self._path}"
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"client CA file {self._path} cannot be read: {error}; give a PEM file with --client-ca-file"
            ) from error


class ClientCAConfigMap(ClientCASource):
    """The cluster's own client CA, followed live in ``kube-system/extension-apiserver-authentication``.

    Args:
        client: The API client.

    Source: apiserver dynamiccertificates.ConfigMapCAController.
    """

    period_s = 60.0
    max_retry_s = 60.0

    def __init__(self, client: KubeRequester) -> None:
        self._client = client

    async def read(self) -> tuple[str, str]:
        """The value of ``client-ca-file``."""
        origin = "config map kube-system/extension-apiserver-authentication"
        try:
            config_map = await self._client.request("GET", CONFIG_MAP_PATH, timeout_s=10.0)
        except KubeAPIError as error:
            hint = ""
            if error.status in (401, 403):
                hint = (
                    "; bind the role kube-system/extension-apiserver-authentication-reader to the node's user, "
                    "or give the CA with --client-ca-file"
                )
            raise TransientError(
                f"{origin} cannot be read: {error}{hint}", retry_after_s=error.retry_after_s
            ) from error
        pem = (config_map.get("data") or {}).get(CONFIG_MAP_KEY)
        if not pem:
            raise TransientError(
                f"{origin} has no {CONFIG_MAP_KEY}: the API server runs without --client-ca-file; "
                "give the CA that signs its kubelet client certificate with --client-ca-file"
            )
        return pem, origin


class ClientCA:
    """The authorities in force.

    Args:
        source: Where they come from; None for none, so that no client certificate is asked for.
        on_change: Called when the bundle changed.
    """

    def __init__(self, source: ClientCASource | None, *, on_change: Callable[[], None] | None = None) -> None:
        self._source = source
        self._bundle: CABundle | None = None
        self._last_error = ""
        self.on_change = on_change

    @property
    def bundle(self) -> CABundle | None:
        """The bundle in force; None as long as none is known."""
        return self._bundle

    async def start(self) -> None:
        """Read the source for the first time, within a few seconds.

        A source that does not answer is no error: certificates are not accepted until ``run`` gets through to it.

        Raises:
            ConfigurationError: The source is a file that cannot be used.
        """
        try:
            async with asyncio.timeout(FIRST_READ_TIMEOUT_S):
                await self._refresh()
        except ConfigurationError:
            if isinstance(self._source, ClientCAFile):
                raise
        except (VkproviderError, TimeoutError) as error:
            self._log_failure(error)

    async def run(self) -> None:
        """Follow the source until cancelled; a failed read leaves the last bundle in force."""
        if self._source is None:
            return
        retry_s = FIRST_RETRY_S
        while True:
            await asyncio.sleep(self._source.period_s if not self._last_error and self._bundle else retry_s)
            try:
                await self._refresh()
            except (VkproviderError, TimeoutError) as error:
                self._log_failure(error)
                hint_s = error.retry_after_s if isinstance(error, TransientError) else None
                retry_s = max(min(retry_s * 2, self._source.max_retry_s), hint_s or 0.0)
            else:
                retry_s = FIRST_RETRY_S

    def accepts(self, certificate: x509.Certificate, checked_against: CABundle | None) -> bool:
        """Whether a certificate that once passed a handshake is still one of ours.

        Args:
            certificate: The client's certificate.
            checked_against: The bundle in force at its handshake.
        """
        if self._bundle is None:
            return False
        if checked_against is self._bundle:
            return True
        return any(_is_issued_by(certificate, authority) for authority in self._bundle.certificates)

    async def _refresh(self) -> None:
        if self._source is None:
            return
        pem, origin = await self._source.read()
        if self._bundle is None or pem != self._bundle.pem:
            bundle = CABundle.parse(pem, origin)
            logger.info(
                "Client certificates are checked against %s", origin, extra={"authorities": len(bundle.certificates)}
            )
            self._bundle = bundle
            if self.on_change is not None:
                self.on_change()
        self._last_error = ""

    def _log_failure(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text == self._last_error:
            return
        self._last_error = text
        if self._bundle is None:
            logger.warning("No client CA known yet, client certificates are refused: %s", text)
        else:
            logger.warning("The client CA could not be read again, the last one stays in force: %s", text)


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
