"""The kubelet API: one HTTPS server through which the API server, and users through it, reach this node's pods.

Requests pass two middlewares, outermost first: errors and figures, then authentication and authorisation; so whatever a
handler or the router raises is answered in the kubelet's words, and nothing is routed for a stranger.

Source: kubelet pkg/kubelet/server/server.go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from aiohttp import web

from vkprovider.aio.clock import Clock, SystemClock
from vkprovider.aio.tasks import TaskPool
from vkprovider.errors import ConfigurationError, TransientError, VkproviderError
from vkprovider.metrics import KubeletMetrics
from vkprovider.provider.pod_provider import PodProvider
from vkprovider.server.authentication import (
    Authenticator,
    CertificateAuthenticator,
    TokenAuthenticator,
    UnauthenticatedError,
)
from vkprovider.server.authorization import AlwaysAllow, Authorizer, WebhookAuthorizer, request_attributes
from vkprovider.server.client_ca import ClientCA, ClientCAConfigMap, ClientCAFile, ClientCASource
from vkprovider.server.configz import make_configz_handler
from vkprovider.server.health import HealthChecks
from vkprovider.server.listener import TLSListener
from vkprovider.server.logs import LogHandlers
from vkprovider.server.metrics import MetricsHandlers
from vkprovider.server.pods import PodHandlers, PodLookup
from vkprovider.server.remotecommand import ACCEPTED_PROTOCOLS
from vkprovider.server.reviews import KubeRequester, Reviewer
from vkprovider.server.stats import StatsCollector
from vkprovider.server.streaming import StreamHandlers
from vkprovider.server.tls import (
    FileServingCertificate,
    SelfSignedServingCertificate,
    ServerTLS,
    ServingCertificate,
)
from vkprovider.server.zpages import DebugPages
from vkprovider.settings import ServerSettings

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEEPALIVE_TIMEOUT_S = 90.0
SHUTDOWN_TIMEOUT_S = 1.0

_DEBUG_PREFIXES = ("run", "exec", "attach", "portForward", "containerLogs", "runningpods", "debug", "logs")


class RequestObserver(Protocol):
    """Takes figures of finished requests, for metrics."""

    def __call__(self, *, method: str, path: str, status: int, duration_s: float) -> None:
        """Record one request.

        Args:
            method: HTTP method.
            path: First part of the path, two for metrics, ``other`` if unknown.
            status: Status answered; 0 when the client went away first.
            duration_s: Seconds from its arrival to the end of its answer.
        """
        ...


class KubeletServer:
    """The kubelet API of one node.

    Args:
        settings: Its settings.
        node_name: Name of the node, for certificates and reviews.
        node_ips: The node's addresses, for the self-signed certificate.
        root_dir: Directory of this node's files; certificates go into ``pki`` below it.
        pods: The node's pods.
        provider: Runs the pods; its capabilities decide what can be served.
        client: API client for reviews and the client CA; None when neither is needed.
        clock: Time.
        checks: Health checks besides ``ping``.
        configuration: What ``/configz`` shows, a KubeletConfiguration.
        observe_request: Takes figures of requests.
        serving_certificate: Another source of the serving certificate.
        metrics: What the node counts; requests are counted into it too. None for figures of this server alone.
        flags: What ``/flagz`` shows.

    Raises:
        ConfigurationError: Reviews are asked for and there is no client, or a setting is unknown.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        node_name: str,
        node_ips: Sequence[str],
        root_dir: Path,
        pods: PodLookup,
        provider: PodProvider,
        client: KubeRequester | None = None,
        clock: Clock | None = None,
        checks: HealthChecks | None = None,
        configuration: Mapping[str, Any] | None = None,
        observe_request: RequestObserver | None = None,
        serving_certificate: ServingCertificate | None = None,
        metrics: KubeletMetrics | None = None,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._node_name = node_name
        self._observe_request = observe_request
        self._metrics = metrics or KubeletMetrics(node_name)
        self._root_dir = root_dir
        self._flags = dict(flags or {})
        clock = clock or SystemClock()
        reviewer = Reviewer(client) if client is not None else None
        self._client_ca = ClientCA(_client_ca_source(settings, client))
        self._authenticator = _make_authenticator(settings, self._client_ca, reviewer, clock)
        self._authorizer = _make_authorizer(settings, reviewer, clock)
        serving = serving_certificate or _serving_certificate(settings, node_name, node_ips, root_dir, clock)
        self._tls = ServerTLS(serving, self._client_ca)
        self._streams = StreamHandlers(pods, provider, idle_timeout_s=settings.streaming_idle_timeout_s)
        self._runner = web.AppRunner(
            self._make_app(pods, provider, clock, checks or HealthChecks(), configuration or {}),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        self._listener = TLSListener(self._make_protocol, lambda: self._tls.context)
        self._pool = TaskPool("kubelet-server")

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._listener.port

    async def start(self) -> None:
        """Get the certificates and begin to listen.

        A client CA that cannot be read yet from the API server is no error; it is followed up in the background.

        Raises:
            ConfigurationError: A file or the address cannot be used.
        """
        await self._client_ca.start()
        await self._tls.start()
        await self._runner.setup()
        try:
            await self._listener.start(self._settings.address, self._settings.port)
        except ConfigurationError:
            await self._runner.cleanup()
            raise
        self._pool.spawn(self._client_ca.run(), name="client-ca")
        self._pool.spawn(self._tls.run(), name="serving-certificate")
        logger.info("Serving the kubelet API", extra={"address": self._settings.address, "port": self.port})

    async def aclose(self) -> None:
        """Stop listening, end what is being served and close all connections. Safe to repeat."""
        await self._listener.stop_accepting()
        await self._pool.aclose()
        await self._runner.cleanup()
        await self._listener.aclose()
        await self._authenticator.aclose()
        await self._authorizer.aclose()

    def _make_protocol(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None:
            raise RuntimeError("the server has been closed")
        return server()

    def _make_app(
        self,
        pods: PodLookup,
        provider: PodProvider,
        clock: Clock,
        checks: HealthChecks,
        configuration: Mapping[str, Any],
    ) -> web.Application:
        app = web.Application(middlewares=[self._answer_errors, self._check_access])
        app.on_response_prepare.append(_trim_headers)
        router = app.router
        checks.add_routes(router, "/healthz")
        pod_handlers = PodHandlers(pods, provider)
        router.add_get("/pods", pod_handlers.handle_pods, allow_head=False)
        collector = StatsCollector(pods, provider, node_name=self._node_name, root_dir=self._root_dir, clock=clock)
        MetricsHandlers(collector, self._metrics).add_routes(router)
        for path, text in (
            ("/logs", "logs endpoint is disabled."),
            ("/debug/pprof", "profiling endpoint is disabled."),
            ("/debug/flags", "flags endpoint is disabled."),
        ):
            router.add_route("*", path + "{rest:(/.*)?}", _make_disabled_handler(text))
        if self._settings.enable_debugging_handlers:
            self._add_debugging_routes(router, pod_handlers, LogHandlers(pods, provider, clock))
            router.add_get("/configz", make_configz_handler(configuration), allow_head=False)
        else:
            disabled = _make_disabled_handler("Debug endpoints are disabled.")
            for prefix in _DEBUG_PREFIXES:
                router.add_route("*", f"/{prefix}" + "{rest:(/.*)?}", disabled)
        # Last, so that all paths are in the list.
        pages = DebugPages(self._flags, [resource.canonical for resource in router.resources()])
        router.add_get("/statusz", pages.handle_statusz, allow_head=False)
        router.add_get("/flagz", pages.handle_flagz, allow_head=False)
        return app

    def _add_debugging_routes(
        self, router: web.UrlDispatcher, pod_handlers: PodHandlers, log_handlers: LogHandlers
    ) -> None:
        streams = self._streams
        for path in ("/runningpods", "/runningpods/"):
            router.add_get(path, pod_handlers.handle_running_pods, allow_head=False)
        pod, container = "/{namespace}/{pod}", "/{namespace}/{pod}/{container}"
        with_uid = "/{namespace}/{pod}/{uid}"
        router.add_get("/containerLogs" + container, log_handlers.handle_container_logs, allow_head=False)
        for path in (container, with_uid + "/{container}"):
            router.add_post("/run" + path, streams.handle_run)
            for method in ("GET", "POST"):
                router.add_route(method, "/exec" + path, streams.handle_exec)
                router.add_route(method, "/attach" + path, streams.handle_attach)
        for path in (pod, with_uid):
            for method in ("GET", "POST"):
                router.add_route(method, "/portForward" + path, streams.handle_port_forward)

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn errors into answers, and report each request."""
        loop = asyncio.get_running_loop()
        begun_at, status, path = loop.time(), 0, _bucket(request)
        with self._metrics.request(request.method, path, get_time=loop.time):
            try:
                response = await handler(request)
                status = response.status
                return response
            except Exception as error:
                response = _error_response(request, error)
                status = response.status
                return response
            finally:
                if self._observe_request is not None:
                    self._observe_request(
                        method=request.method, path=path, status=status, duration_s=loop.time() - begun_at
                    )

    @web.middleware
    async def _check_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let nobody pass who may not."""
        identity = await self._authenticator.authenticate(request)
        attributes = request_attributes(request.method, request.path, node_name=self._node_name)
        await self._authorizer.authorize(identity, attributes)
        return await handler(request)


def _error_response(request: web.Request, error: Exception) -> web.Response:
    if isinstance(error, UnauthenticatedError):
        logger.info("Request refused", extra={"path": request.path, "remote": request.remote, "error": str(error)})
        return web.Response(status=401, text="Unauthorized")
    if isinstance(error, VkproviderError):
        headers = {}
        if isinstance(error, TransientError) and error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        return web.Response(status=error.http_status, text=str(error), headers=headers)
    if isinstance(error, web.HTTPNotFound):
        return web.Response(status=404, text="404 page not found\n")
    if isinstance(error, web.HTTPMethodNotAllowed):
        return web.Response(
            status=405, text="405: Method Not Allowed", headers={"Allow": ",".join(sorted(error.allowed_methods))}
        )
    if isinstance(error, web.HTTPException):
        response = web.Response(status=error.status, text=error.text or error.reason)
        for protocol in error.headers.getall(ACCEPTED_PROTOCOLS, []):
            response.headers.add(ACCEPTED_PROTOCOLS, protocol)
        return response
    if isinstance(error, ConnectionError):
        raise error
    logger.exception("A request failed", extra={"method": request.method, "path": request.path}, exc_info=error)
    return web.Response(status=500, text=f"Internal error occurred: {error}")


def _bucket(request: web.Request) -> str:
    """Source: kubelet pkg/kubelet/server/server.go, getMetricBucket and getURLRootPath."""
    if request.match_info.http_exception is not None:
        return "other"
    parts = request.path.lstrip("/").split("/", 2)
    return "/".join(parts[:2]) if parts[0] == "metrics" and len(parts) > 1 else parts[0]


def _make_disabled_handler(text: str) -> Handler:
    async def handle_disabled(request: web.Request) -> web.StreamResponse:
        return web.Response(status=405, text=text + "\n")

    return handle_disabled


async def _trim_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Say nothing of the server's make; a log has no content type, as in the kubelet."""
    response.headers.pop("Server", None)
    if not isinstance(response, web.Response):
        response.headers.pop("Content-Type", None)


def _client_ca_source(settings: ServerSettings, client: KubeRequester | None) -> ClientCASource | None:
    if settings.client_ca_file is not None:
        return ClientCAFile(settings.client_ca_file)
    return ClientCAConfigMap(client) if client is not None else None


def _make_authenticator(
    settings: ServerSettings, client_ca: ClientCA, reviewer: Reviewer | None, clock: Clock
) -> Authenticator:
    tokens = None
    if settings.webhook_authentication:
        if reviewer is None:
            raise ConfigurationError(
                "tokens cannot be reviewed without an API client; switch webhook authentication off"
            )
        tokens = TokenAuthenticator(reviewer, clock, ttl_s=settings.authentication_cache_ttl_s)
    certificates = CertificateAuthenticator(client_ca, clock)
    return Authenticator(certificates=certificates, tokens=tokens, anonymous=settings.anonymous)


def _make_authorizer(settings: ServerSettings, reviewer: Reviewer | None, clock: Clock) -> Authorizer:
    if settings.authorization_mode == "AlwaysAllow":
        return AlwaysAllow()
    if settings.authorization_mode != "Webhook":
        raise ConfigurationError(
            f"authorization mode {settings.authorization_mode!r} is unknown; it may be Webhook or AlwaysAllow"
        )
    if reviewer is None:
        raise ConfigurationError("authorization mode Webhook needs an API client; use AlwaysAllow without one")
    return WebhookAuthorizer(
        reviewer,
        clock,
        allowed_ttl_s=settings.authorized_cache_ttl_s,
        denied_ttl_s=settings.unauthorized_cache_ttl_s,
    )


def _serving_certificate(
    settings: ServerSettings, node_name: str, node_ips: Sequence[str], root_dir: Path, clock: Clock
) -> ServingCertificate:
    if settings.tls_cert_file is None and settings.tls_private_key_file is None:
        return SelfSignedServingCertificate(root_dir / "pki", node_name=node_name, ips=node_ips, clock=clock)
    if settings.tls_cert_file is None or settings.tls_private_key_file is None:
        raise ConfigurationError("--tls-cert-file and --tls-private-key-file must be given together")
    return FileServingCertificate(settings.tls_cert_file, settings.tls_private_key_file)
