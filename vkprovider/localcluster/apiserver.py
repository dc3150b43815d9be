"""The HTTP side of the local cluster's API server: who asks, for what, and the answer or the error.

Source: staging/src/k8s.io/apiserver/pkg/server/config.go (the handler chain).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from vkprovider.localcluster import content, discovery, openapi, status
from vkprovider.localcluster.authentication import Authenticator
from vkprovider.localcluster.handlers import Call, ResourceHandlers
from vkprovider.localcluster.proxy import KubeletProxy
from vkprovider.localcluster.registry import Registry
from vkprovider.localcluster.requests import parse_path
from vkprovider.localcluster.reviews import Reviews
from vkprovider.localcluster.store import dumps
from vkprovider.localcluster.subresources import Subresources
from vkprovider.localcluster.tokens import TokenIssuer
from vkprovider.localcluster.users import ANONYMOUS

logger = logging.getLogger(__name__)
Object = dict[str, Any]
_HEALTH: Final = ("/healthz", "/livez", "/readyz")
_CONNECT: Final = frozenset({"log", "exec", "attach", "portforward", "proxy"})


class APIServer:
    """Answers every request on the API.

    Args:
        registry: The resources.
        authenticator: Finds the user.
        handlers: Plain verbs.
        subresources: The rest of the subresources.
        reviews: Virtual resources.
        proxy: The way to kubelets.
        tokens: For the OpenID documents.
        address: Gives ``host:port`` of this server.
    """

    def __init__(
        self,
        registry: Registry,
        authenticator: Authenticator,
        handlers: ResourceHandlers,
        subresources: Subresources,
        reviews: Reviews,
        proxy: KubeletProxy,
        tokens: TokenIssuer,
        address: Callable[[], str],
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._handlers = handlers
        self._subresources = subresources
        self._reviews = reviews
        self._proxy = proxy
        self._tokens = tokens
        self._address = address
        self._documents: dict[str, bytes] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises but for cancellation and a client that has gone."""
        try:
            return await self._route(request)
        except status.APIStatusError as error:
            return self._failure(error)
        except (ConnectionError, web.HTTPException):
            raise
        except Exception as error:
            logger.exception("Request failed", extra={"method": request.method, "path": request.path})
            return self._failure(status.internal_error(f"{type(error).__name__}: {error}"))

    @staticmethod
    def _failure(error: status.APIStatusError) -> web.Response:
        headers = {}
        retry_after_s = (error.details or {}).get("retryAfterSeconds")
        if retry_after_s:
            headers["Retry-After"] = str(retry_after_s)
        return content.json_response(dumps(error.to_status()).encode(), error.code, headers)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        user = self._authenticator.authenticate(request)
        if user is ANONYMOUS and not self._is_public(path):
            raise status.unauthorized()
        query = request.query
        target = parse_path(self._registry, request.method, path, query)
        if target is None:
            return self._document(request, path)
        call = Call(request, target, user, query)
        if target.subresource in _CONNECT:
            return await self._proxy.handle(call)
        if target.verb == "create" and self._reviews.serves(target.resource.plural):
            return await self._reviews.handle(call)
        if target.subresource or target.resource.plural == "bindings":
            return await self._subresources.handle(call)
        return await self._handlers.handle(call)

    @staticmethod
    def _is_public(path: str) -> bool:
        return path == "/version" or path.startswith(_HEALTH)

    def _document(self, request: web.BaseRequest, path: str) -> web.Response:
        """Discovery, version, health and the like.

        Raises:
            APIStatusError: 404, there is no such document.
        """
        if request.method not in ("GET", "HEAD"):
            raise status.method_not_allowed()
        if path.startswith(_HEALTH):
            verbose = "verbose" in request.query
            return web.Response(text="[+]ping ok\nhealthz check passed\n" if verbose else "ok")
        bare = path.rstrip("/") or "/"
        if bare == "/openapi/v2":
            protobuf = "proto-openapi" in request.headers.get("Accept", "")
            kind = openapi.V2_PROTOBUF if protobuf else content.JSON
            return web.Response(body=openapi.make_v2(protobuf=protobuf), content_type=kind)
        aggregated = bare in ("/api", "/apis") and self._wants_aggregated(request)
        key = f"{bare}?aggregated" if aggregated else bare
        data = self._documents.get(key)
        if data is None:
            document = self._make_document(bare, aggregated=aggregated)
            if document is None:
                return web.Response(text="404 page not found\n", status=404)
            data = self._documents[key] = dumps(document).encode()
        response = content.json_response(data)
        if aggregated:
            response.headers["Content-Type"] = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        return response

    @staticmethod
    def _wants_aggregated(request: web.BaseRequest) -> bool:
        return content.parse_accept(request.headers.get("Accept", "")).form == "aggregated"

    def _make_document(self, path: str, *, aggregated: bool) -> Object | None:
        parts = path.strip("/").split("/")
        match parts:
            case ["version"]:
                return discovery.make_version()
            case ["api"]:
                if aggregated:
                    return discovery.make_aggregated(self._registry, core=True)
                return discovery.make_api_versions(self._address())
            case ["apis"]:
                if aggregated:
                    return discovery.make_aggregated(self._registry, core=False)
                return discovery.make_group_list(self._registry)
            case ["api", "v1"]:
                return discovery.make_resource_list(self._registry, "", "v1")
            case ["apis", group] if group in self._registry.list_groups():
                return {"kind": "APIGroup", "apiVersion": "v1", **discovery.make_group(self._registry, group)}
            case ["apis", group, version] if self._registry.list_in(group, version):
                return discovery.make_resource_list(self._registry, group, version)
            case ["openapi", "v3"]:
                return openapi.make_index(self._registry)
            case ["openapi", "v3", "api", "v1"]:
                return openapi.make_document(self._registry, "", "v1")
            case ["openapi", "v3", "apis", group, version] if self._registry.list_in(group, version):
                return openapi.make_document(self._registry, group, version)
            case [""]:
                return {
                    "paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]
                }
            case [".well-known", "openid-configuration"]:
                return {
                    "issuer": self._tokens.issuer,
                    "jwks_uri": f"https://{self._address()}/openid/v1/jwks",
                    "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"],
                }
            case ["openid", "v1", "jwks"]:
                return self._tokens.to_jwks()
        return None
