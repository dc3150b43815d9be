"""Service account tokens: ES256 JWTs bound to an object, issued by TokenRequest and checked on every use.

Source: pkg/serviceaccount/claims.go, pkg/registry/core/serviceaccount/storage/token.go.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from vkprovider.localcluster.store import Store, dumps
from vkprovider.localcluster.users import AUTHENTICATED, User

ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
EXTENDED_S: Final = 365 * 24 * 3600
_LEEWAY_S: Final = 10


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class TokenIssuer:
    """Signs and verifies tokens.

    Args:
        key: The cluster's signing key.
        store: Where the bound objects live.
        issuer: ``iss`` of the tokens, and their default audience.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, store: Store, *, issuer: str = ISSUER) -> None:
        self._key = key
        self._store = store
        self.issuer: Final = issuer
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id: Final = _encode(hashlib.sha256(public).digest())
        self._verified: dict[str, dict[str, Any]] = {}

    def to_jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set."""
        numbers = self._key.public_key().public_numbers()
        return {
            "keys": [
                {
                    "use": "sig",
                    "kty": "EC",
                    "kid": self.key_id,
                    "crv": "P-256",
                    "alg": "ES256",
                    "x": _encode(numbers.x.to_bytes(32, "big")),
                    "y": _encode(numbers.y.to_bytes(32, "big")),
                }
            ]
        }

    def issue(
        self,
        account: dict[str, Any],
        *,
        audiences: Sequence[str],
        lifetime_s: int,
        bound: dict[str, Any] | None = None,
        node: dict[str, Any] | None = None,
    ) -> tuple[str, float]:
        """A token for a service account.

        Args:
            account: The ServiceAccount.
            audiences: ``aud``; the issuer when empty.
            lifetime_s: Seconds until it expires.
            bound: Pod, Secret or Node that it is bound to.
            node: The node of a bound pod.

        Returns:
            The token and its expiry in seconds since the epoch.
        """
        now = int(time.time())
        metadata = account["metadata"]
        claims: dict[str, Any] = {
            "aud": list(audiences) or [self.issuer],
            "exp": now + lifetime_s,
            "iat": now,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": metadata["namespace"],
                "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
            },
            "nbf": now,
            "sub": f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}",
        }
        private = claims["kubernetes.io"]
        for obj in (bound, node):
            if obj is not None:
                private[obj["kind"].lower()] = {"name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"]}
        if bound is not None and bound["kind"] == "Pod" and lifetime_s == 3607:
            private["warnafter"] = now + lifetime_s
            claims["exp"] = now + EXTENDED_S
        header = {"alg": "ES256", "kid": self.key_id}
        signed = f"{_encode(dumps(header).encode())}.{_encode(dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return f"{signed}.{_encode(signature)}", float(now + lifetime_s)

    def authenticate(self, token: str, audiences: Sequence[str] = ()) -> tuple[User, list[str]] | None:
        """The user of a token and the audiences it is good for, or None when it is not good.

        Args:
            token: The JWT.
            audiences: At least one of them must be in the token; the issuer when empty.
        """
        claims = self._claims(token)
        if claims is None:
            return None
        now = time.time()
        if claims.get("exp", 0) < now - _LEEWAY_S or claims.get("nbf", 0) > now + _LEEWAY_S:
            self._verified.pop(token, None)
            return None
        wanted = list(audiences) or [self.issuer]
        matching = [audience for audience in wanted if audience in claims.get("aud", ())]
        private = claims.get("kubernetes.io") or {}
        namespace = private.get("namespace", "")
        account = private.get("serviceaccount") or {}
        if not matching or not self._exists("serviceaccounts", namespace, account):
            return None
        extra = {"authentication.kubernetes.io/credential-id": (f"JTI={claims.get('jti', '')}",)}
        for kind, storage in (("pod", "pods"), ("secret", "secrets"), ("node", "nodes")):
            bound = private.get(kind)
            if bound is None:
                continue
            is_context = kind == "node" and "pod" in private
            if not is_context and not self._exists(storage, "" if kind == "node" else namespace, bound):
                return None
            if kind != "secret":
                extra[f"authentication.kubernetes.io/{kind}-name"] = (bound["name"],)
                extra[f"authentication.kubernetes.io/{kind}-uid"] = (bound["uid"],)
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
        return User(claims["sub"], groups, account.get("uid", ""), extra), matching

    def _exists(self, storage: str, namespace: str, reference: dict[str, Any]) -> bool:
        found = self._store.collection(storage).find(namespace, reference.get("name", ""))
        return found is not None and found.obj["metadata"]["uid"] == reference.get("uid")

    def _claims(self, token: str) -> dict[str, Any] | None:
        """Claims of a token with a good signature; verified tokens are remembered."""
        known = self._verified.get(token)
        if known is not None:
            return known
        try:
            header_text, body_text, signature_text = token.split(".")
            header = json.loads(_decode(header_text))
            signature = _decode(signature_text)
            claims = json.loads(_decode(body_text))
            if header.get("alg") != "ES256" or len(signature) != 64 or claims.get("iss") != self.issuer:
                return None
            encoded = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            self._key.public_key().verify(encoded, f"{header_text}.{body_text}".encode(), ec.ECDSA(hashes.SHA256()))
        except (ValueError, TypeError, AttributeError, InvalidSignature):
            return None
        if len(self._verified) > 1000:
            self._verified.clear()
        self._verified[token] = claims
        return dict(claims)
