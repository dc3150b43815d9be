"""Who a request comes from: client certificates and service account tokens.

Source: staging/src/k8s.io/apiserver/pkg/authentication/request/{x509,bearertoken}.
"""

from __future__ import annotations

import base64
from typing import Any

from aiohttp import web

from vkprovider.localcluster import status
from vkprovider.localcluster.tokens import TokenIssuer
from vkprovider.localcluster.users import ANONYMOUS, AUTHENTICATED, MASTERS, User


def user_from_certificate(certificate: dict[str, Any]) -> User | None:
    """The user that a verified peer certificate names: its common name, with the organizations as groups."""
    name = ""
    groups: list[str] = []
    for relative in certificate.get("subject", ()):
        for key, value in relative:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    if not name:
        return None
    return User(name, (*groups, AUTHENTICATED))


class Authenticator:
    """Finds the user of a request.

    Args:
        tokens: Checks service account tokens.
    """

    def __init__(self, tokens: TokenIssuer) -> None:
        self._tokens = tokens
        self._users: dict[tuple[Any, ...], User] = {}

    def authenticate(self, request: web.BaseRequest) -> User:
        """The user; ``system:anonymous`` when the request carries no credentials.

        Raises:
            APIStatusError: 401, the credentials are not good; 403, the user may not impersonate.
        """
        user = self._identify(request)
        wanted = request.headers.get("Impersonate-User")
        if wanted:
            if MASTERS not in user.groups:
                raise status.forbidden("users", "", wanted, f'User "{user.name}" cannot impersonate resource "users"')
            groups = request.headers.getall("Impersonate-Group", [])
            return User(wanted, tuple(dict.fromkeys([*groups, AUTHENTICATED])))
        return user

    def _identify(self, request: web.BaseRequest) -> User:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        if certificate:
            subject = certificate.get("subject", ())
            known = self._users.get(subject)
            if known is None:
                known = user_from_certificate(certificate) or ANONYMOUS
                if len(self._users) > 1000:
                    self._users.clear()
                self._users[subject] = known
            return known
        header = request.headers.get("Authorization", "")
        token = header[7:].strip() if header[:7].lower() == "bearer " else ""
        if not token:
            token = _websocket_token(request)
        if not token:
            return ANONYMOUS
        found = self._tokens.authenticate(token)
        if found is None:
            raise status.unauthorized()
        return found[0]


def _websocket_token(request: web.BaseRequest) -> str:
    """Token in the subprotocols of a WebSocket, where browsers have to put it."""
    prefix = "base64url.bearer.authorization.k8s.io."
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if protocol.strip().startswith(prefix):
            text = protocol.strip()[len(prefix) :]
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except ValueError:
                return ""
    return ""
