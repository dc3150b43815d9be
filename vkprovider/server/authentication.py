"""Who sends a request: client certificates, bearer tokens, or nobody.

Source: kubelet cmd/kubelet/app/auth.go, BuildAuthn; apiserver pkg/authentication.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import NameOID

from vkprovider.aio.clock import Clock
from vkprovider.errors import KubeAPIError, TransientError, VkproviderError
from vkprovider.server.caches import SharedLookups, TTLCache
from vkprovider.server.client_ca import ClientCA
from vkprovider.server.reviews import TOKEN_REVIEWS, Reviewer
from vkprovider.server.tls import ServerContext

logger = logging.getLogger(__name__)

ANONYMOUS = "system:anonymous"
AUTHENTICATED_GROUP = "system:authenticated"
UNAUTHENTICATED_GROUP = "system:unauthenticated"
CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
UID_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57683.2")
WEBSOCKET_TOKEN_PREFIX = "base64url.bearer.authorization.k8s.io."  # noqa: S105 - a prefix
MAX_CACHED_TOKENS = 4096
MAX_CACHED_CERTIFICATES = 256


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, as the API server knows users.

    Attributes:
        name: User name.
        uid: UID, empty if none.
        groups: Groups.
        extra: Further attributes.
    """

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class UnauthenticatedError(VkproviderError):
    """Nobody vouches for the request; the message is for the log, clients see ``Unauthorized`` only."""

    default_reason = "Unauthorized"
    http_status = 401


class CertificateAuthenticator:
    """Reads the identity from a client certificate that passed the TLS handshake.

    Args:
        client_ca: The authorities in force now.
        clock: Time.

    Source: apiserver pkg/authentication/request/x509, CommonNameUserConversion.
    """

    def __init__(self, client_ca: ClientCA, clock: Clock) -> None:
        self._client_ca = client_ca
        self._clock = clock
        self._parsed: TTLCache[bytes, tuple[x509.Certificate, Identity | None]] = TTLCache(
            clock, max_entries=MAX_CACHED_CERTIFICATES
        )

    def authenticate(self, request: web.BaseRequest) -> Identity | None:
        """The identity, or None when the client sent no certificate (or one without a common name).

        Raises:
            UnauthenticatedError: The certificate has expired since, or its CA is no longer trusted.
        """
        transport = request.transport
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        der = None if tls is None else tls.getpeercert(binary_form=True)
        if tls is None or not der:
            return None
        certificate, identity = self._parse(der)
        if certificate.not_valid_after_utc < self._clock.now():
            raise UnauthenticatedError(f"client certificate {_describe(certificate)} has expired")
        context: ssl.SSLContext = tls.context
        checked_against = context.client_ca if isinstance(context, ServerContext) else None
        if not self._client_ca.accepts(certificate, checked_against):
            raise UnauthenticatedError(f"client certificate {_describe(certificate)} is not of the client CA in force")
        return identity

    def _parse(self, der: bytes) -> tuple[x509.Certificate, Identity | None]:
        fingerprint = hashlib.sha256(der).digest()
        entry = self._parsed.find(fingerprint)
        if entry is None:
            try:
                certificate = x509.load_der_x509_certificate(der)
                entry = certificate, identity_of(certificate, fingerprint)
            except ValueError as error:
                raise UnauthenticatedError(f"client certificate cannot be read: {error}") from error
            self._parsed.put(fingerprint, entry, ttl_s=3600.0)
        return entry


def identity_of(certificate: x509.Certificate, fingerprint: bytes) -> Identity | None:
    """Identity in a certificate's subject: CN is the user, O the groups; None without a common name.

    Raises:
        UnauthenticatedError: The subject names several UIDs.
    """
    subject = certificate.subject
    names = [str(attribute.value) for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names or not names[-1]:
        return None
    groups = tuple(str(attribute.value) for attribute in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    uids = [str(attribute.value) for attribute in subject.get_attributes_for_oid(UID_OID)]
    if len(uids) > 1 or uids == [""]:
        raise UnauthenticatedError(f"client certificate {_describe(certificate)} must have one UID that is not empty")
    return Identity(
        names[-1],
        uid=uids[0] if uids else "",
        groups=groups,
        extra={CREDENTIAL_ID: (f"X509SHA256={fingerprint.hex()}",)},
    )


class TokenAuthenticator:
    """Has bearer tokens reviewed by the API server and remembers the answers, never the tokens.

    Args:
        reviewer: Posts the reviews.
        clock: Time.
        ttl_s: Seconds an answer is remembered; 0 asks every time.

    Source: apiserver pkg/authentication/token/cache and plugin/pkg/authenticator/token/webhook.
    """

    def __init__(self, reviewer: Reviewer, clock: Clock, *, ttl_s: float) -> None:
        self._reviewer = reviewer
        self._ttl_s = ttl_s
        self._hash_key = secrets.token_bytes(32)
        self._answers: TTLCache[bytes, tuple[Identity | None, str]] = TTLCache(clock, max_entries=MAX_CACHED_TOKENS)
        self._lookups: SharedLookups[bytes, tuple[Identity | None, str]] = SharedLookups("token-review")

    async def authenticate(self, request: web.BaseRequest) -> Identity | None:
        """The identity of the token's owner, or None when the request carries no token.

        Raises:
            UnauthenticatedError: The token is not valid, or could not be reviewed.
        """
        token = bearer_token(request)
        if token is None:
            return None
        key = hmac.digest(self._hash_key, token.encode("utf-8", "surrogateescape"), "sha256")
        answer = self._answers.find(key)
        if answer is None:
            try:
                answer = await self._lookups.get(key, lambda: self._review(key, token))
            except (KubeAPIError, TransientError) as error:
                raise UnauthenticatedError(f"the bearer token could not be reviewed: {error}") from error
        identity, why = answer
        if identity is None:
            raise UnauthenticatedError(why or "invalid bearer token")
        return identity

    async def aclose(self) -> None:
        """Cancel reviews that still run."""
        await self._lookups.aclose()

    async def _review(self, key: bytes, token: str) -> tuple[Identity | None, str]:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": {"token": token},
        }
        status = await self._reviewer.review(TOKEN_REVIEWS, body)
        if not status.get("authenticated"):
            # An error of the reviewer may pass; a plain no is remembered.
            answer: tuple[Identity | None, str] = None, str(status.get("error") or "")
            if answer[1]:
                return answer
        else:
            user = status.get("user") or {}
            answer = (
                Identity(
                    user.get("username") or "",
                    uid=user.get("uid") or "",
                    groups=tuple(user.get("groups") or ()),
                    extra={name: tuple(values) for name, values in (user.get("extra") or {}).items()},
                ),
                "",
            )
        self._answers.put(key, answer, ttl_s=self._ttl_s)
        return answer


class Authenticator:
    """Tries certificate and token in this order; without any credentials a request may be anonymous.

    Args:
        certificates: Reads client certificates; None ignores them.
        tokens: Reviews tokens; None ignores them.
        anonymous: Whether requests without credentials are let in.
    """

    def __init__(
        self,
        *,
        certificates: CertificateAuthenticator | None = None,
        tokens: TokenAuthenticator | None = None,
        anonymous: bool = False,
    ) -> None:
        self._certificates = certificates
        self._tokens = tokens
        self._anonymous = anonymous

    async def authenticate(self, request: web.BaseRequest) -> Identity:
        """The sender of a request.

        Raises:
            UnauthenticatedError: It has no credentials, or none that are valid.
        """
        failure: UnauthenticatedError | None = None
        identity: Identity | None = None
        if self._certificates is not None:
            try:
                identity = self._certificates.authenticate(request)
            except UnauthenticatedError as error:
                failure = error
        if identity is None and self._tokens is not None:
            identity = await self._tokens.authenticate(request)
        if identity is not None:
            return _with_authenticated_group(identity)
        if failure is not None:
            raise failure
        if not self._anonymous:
            raise UnauthenticatedError("no credentials")
        return Identity(ANONYMOUS, groups=(UNAUTHENTICATED_GROUP,))

    async def aclose(self) -> None:
        """Cancel what runs."""
        if self._tokens is not None:
            await self._tokens.aclose()


def bearer_token(request: web.BaseRequest) -> str | None:
    """Token of the Authorization header, or of a WebSocket sub-protocol; None without either.

    Source: apiserver pkg/authentication/request/bearertoken and request/websocket.
    """
    parts = request.headers.get("Authorization", "").split()
    if len(parts) >= 2 and parts[0].lower() == "bearer":
        return parts[1]
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        encoded = protocol.strip()
        if encoded.startswith(WEBSOCKET_TOKEN_PREFIX):
            encoded = encoded.removeprefix(WEBSOCKET_TOKEN_PREFIX)
            try:
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError) as error:
                raise UnauthenticatedError(f"the token in Sec-WebSocket-Protocol cannot be read: {error}") from error
    return None


def _with_authenticated_group(identity: Identity) -> Identity:
    if identity.name == ANONYMOUS or AUTHENTICATED_GROUP in identity.groups:
        return identity
    return Identity(identity.name, identity.uid, (*identity.groups, AUTHENTICATED_GROUP), identity.extra)


def _describe(certificate: x509.Certificate) -> str:
    return f"{certificate.subject.rfc4514_string()} (serial {certificate.serial_number:x})"
