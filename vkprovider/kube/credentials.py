"""How to reach and convince the API server: one object that the client and the watch engine share.

Configuration is read by the official client (``kubernetes.aio.config``), so every kind of kubeconfig works: certificates, tokens,
token files, exec plug-ins, ``tls-server-name``, ``insecure-skip-tls-verify``, ``proxy-url``. What may change while the process runs
is read again: files when they changed, looked at about once a minute; plug-ins' tokens before they expire; everything when the server
answers 401. The TLS context stays the same object for good: a renewed certificate is loaded into it and used by new connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from vkprovider.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.aio.client import Configuration

logger = logging.getLogger(__name__)

RELOAD_PERIOD_S = 60.0
EXPIRY_MARGIN_S = 60.0
_MIN_RELOAD_INTERVAL_S = 1.0
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One reading of the configuration."""

    server: str
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    verify: bool
    tls_server_name: str | None
    proxy: str | None
    authorization: str | None
    expires_at: datetime | None = None
    files: tuple[str, ...] = ()


class _TLSContext(ssl.SSLContext):
    """A client context that can ask for another server name than the one dialled (``tls-server-name``)."""

    tls_server_name: str | None = None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Start a handshake for the configured server name."""
        if self.tls_server_name is not None:
            kwargs["server_hostname"] = self.tls_server_name
        return super().wrap_bio(incoming, outgoing, *args, **kwargs)


class Credentials:
    """Address of an API server, and what it takes to be let in. Make one with ``load_credentials``.

    Attributes:
        server: URL of the server, without a trailing slash.
        source: Where all this comes from, for messages.
    """

    def __init__(self, load: Callable[[], _LoadCoroutine], first: _Loaded, *, source: str) -> None:
        self._load = load
        self._current = first
        self._lock = asyncio.Lock()
        self._loaded_at = -1e9
        self._fresh_until: float | None = None
        self.source = source
        self.server = first.server
        self._ssl_context = _make_ssl_context(first, source) if first.server.startswith("https") else None
        self._stamp = _stamp(first)

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS settings for connections to the server; None for plain HTTP."""
        return self._ssl_context

    @property
    def proxy(self) -> str | None:
        """URL of the proxy on the way to the server, if any."""
        return self._current.proxy

    @property
    def ca_file(self) -> str | None:
        """File with the certificates that sign the server's."""
        return self._current.ca_file

    async def get_authorization(self) -> str | None:
        """Value of the Authorization header, renewed if need be; None when the client certificate or nothing speaks for us."""
        if self._fresh_until is None:
            self._fresh_until = self._compute_fresh_until()
        elif asyncio.get_running_loop().time() >= self._fresh_until:
            await self._reload(force=False)
        return self._current.authorization

    async def invalidate(self) -> bool:
        """Read everything anew, because the server refused us.

        Returns:
            Whether anything is different now, so that trying again makes sense.
        """
        return await self._reload(force=True)

    def create_session(self, *, limit: int = 0) -> aiohttp.ClientSession:
        """A new HTTP session that trusts the server and authorizes every request; the caller closes it.

        Args:
            limit: Most connections at once; 0 for no bound.
        """
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=self._ssl_context or True, keepalive_timeout=60.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self.proxy,
            middlewares=(self._authorize,),
        )

    async def _authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if (authorization := await self.get_authorization()) is not None:
            request.headers["Authorization"] = authorization
        return await handler(request)

    async def _reload(self, *, force: bool) -> bool:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        before = self._current
        async with self._lock:
            # Whoever waited while another one reloaded uses that result.
            if self._loaded_at > asked_at or (force and asked_at - self._loaded_at < _MIN_RELOAD_INTERVAL_S):
                return self._current != before
            stamp_before = self._stamp
            stamp = await asyncio.to_thread(_stamp, self._current)
            if force or stamp != stamp_before or self._has_expired():
                self._loaded_at = loop.time()
                try:
                    self._current = await self._load()
                    await asyncio.to_thread(self._renew_certificate)
                except ConfigurationError as error:
                    logger.warning("Credentials could not be renewed", extra={"error": str(error)})
            self._fresh_until = self._compute_fresh_until()
            return self._current != before or self._stamp != stamp_before

    def _compute_fresh_until(self) -> float:
        now = asyncio.get_running_loop().time()
        if self._current.expires_at is None:
            return now + RELOAD_PERIOD_S
        return now + max(5.0, (self._current.expires_at - datetime.now(UTC)).total_seconds() - EXPIRY_MARGIN_S)

    def _has_expired(self) -> bool:
        expires_at = self._current.expires_at
        return expires_at is not None and expires_at - timedelta(seconds=EXPIRY_MARGIN_S) <= datetime.now(UTC)

    def _renew_certificate(self) -> None:
        stamp = _stamp(self._current)
        if stamp == self._stamp or self._ssl_context is None:
            self._stamp = stamp
            return
        try:
            if self._current.cert_file is not None:
                self._ssl_context.load_cert_chain(self._current.cert_file, self._current.key_file)
            if self._current.ca_file is not None and self._current.verify:
                self._ssl_context.load_verify_locations(self._current.ca_file)
        except (OSError, ssl.SSLError) as error:
            logger.warning("Renewed certificate cannot be used", extra={"error": str(error)})
        else:
            self._stamp = stamp


if TYPE_CHECKING:
    from collections.abc import Coroutine

    _LoadCoroutine = Coroutine[Any, Any, _Loaded]


def _stamp(loaded: _Loaded) -> tuple[object, ...]:
    """Changes when one of the files that the configuration stands on does."""
    stamps: list[object] = []
    for name in (*loaded.files, loaded.cert_file, loaded.key_file, loaded.ca_file):
        if name is not None:
            with contextlib.suppress(OSError):
                info = os.stat(name)
                stamps.append((name, info.st_mtime_ns, info.st_ino, info.st_size))
    return tuple(stamps)


def _make_ssl_context(loaded: _Loaded, source: str) -> ssl.SSLContext:
    context = _TLSContext(ssl.PROTOCOL_TLS_CLIENT)
    context.tls_server_name = loaded.tls_server_name
    try:
        if not loaded.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif loaded.ca_file is not None:
            context.load_verify_locations(loaded.ca_file)
        else:
            context.load_default_certs()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{source}: certificate authority {loaded.ca_file} cannot be used ({error}); it must hold PEM certificates"
        ) from error
    if loaded.cert_file is not None:
        try:
            context.load_cert_chain(loaded.cert_file, loaded.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"{source}: client certificate {loaded.cert_file} with key {loaded.key_file} cannot be used ({error}); "
                "both must be PEM and belong together"
            ) from error
    return context


async def load_credentials(kubeconfig: Path | None = None, context: str | None = None) -> Credentials:
    """Read how to reach a cluster.

    Args:
        kubeconfig: Kubeconfig file; None for the configuration of the pod this process runs in.
        context: Context of the kubeconfig; None for its current one.

    Raises:
        ConfigurationError: There is no such file or context, or it is wrong; says which, and what to do.
    """
    if kubeconfig is None:
        if context is not None:
            raise ConfigurationError("a context was given but no kubeconfig; give --kubeconfig as well")
        source = "in-cluster configuration"

        async def load() -> _Loaded:
            return await asyncio.to_thread(_load_in_cluster)
    else:
        path = kubeconfig
        source = f"kubeconfig {path}" + (f", context {context!r}" if context else "")

        async def load() -> _Loaded:
            return await _load_kubeconfig(path, context, source)

    return Credentials(load, await load(), source=source)


def _load_in_cluster() -> _Loaded:
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_incluster_config

    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration, try_refresh_token=False)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise ConfigurationError(
            f"no kubeconfig was given and this process does not run in a pod of a cluster ({error}); "
            "give --kubeconfig, or set KUBECONFIG"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"the service account's files in {_SERVICE_ACCOUNT} cannot be read ({error})"
        ) from error
    return _from_configuration(configuration, files=(str(_SERVICE_ACCOUNT / "token"),))


async def _load_kubeconfig(path: Path, context: str | None, source: str) -> _Loaded:
    import yaml
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_kube_config

    for name in str(path).split(os.pathsep):
        if name and not await asyncio.to_thread(_is_readable, name):
            raise ConfigurationError(f"kubeconfig {name} does not exist or cannot be read")
    configuration = Configuration()
    try:
        loader = await load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(path), context=context, client_configuration=configuration, persist_config=False
        )
    except ConfigException as error:
        raise ConfigurationError(f"{source}: {error}; see 'kubectl config get-contexts'") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source} is not valid YAML: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{source}: {error}") from error
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{source} is not a usable kubeconfig ({type(error).__name__}: {error}); it needs the lists clusters, contexts and "
            "users, and the context must name a cluster and a user"
        ) from error
    user: Any = getattr(loader, "_user", None)
    user = getattr(user, "value", user) or {}
    expires_at: datetime | None = getattr(loader, "exec_plugin_expiry", None)
    if "exec" in user and not configuration.api_key and getattr(loader, "cert_file", None) is None:
        raise ConfigurationError(f"{source}: {await _explain_exec_failure(user['exec'])}")
    if not getattr(loader, "host", None):
        raise ConfigurationError(f"{source}: the cluster has no server URL")
    return _from_configuration(configuration, files=_list_files(path, user), expires_at=expires_at)


def _list_files(path: Path, user: dict[str, Any]) -> tuple[str, ...]:
    """Files that a kubeconfig stands on, besides certificates: itself, all parts of a list, and the token."""
    files = [os.path.expanduser(name) for name in str(path).split(os.pathsep) if name]
    if token_file := user.get("tokenFile"):
        files.append(str(path.parent / token_file))
    return tuple(files)


def _is_readable(name: str) -> bool:
    return os.access(os.path.expanduser(name), os.R_OK)


async def _explain_exec_failure(exec_config: Any) -> str:
    """Words on why a credential plug-in gave nothing: the loader only logs them."""
    from kubernetes.aio.config import ConfigException
    from kubernetes.aio.config.exec_provider import ExecProvider
    from kubernetes.aio.config.kube_config import ConfigNode

    command = exec_config.get("command", "?")
    try:
        await ExecProvider(ConfigNode("exec", exec_config)).run()  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        return f"credential plug-in {command!r} failed: {error}"
    return f"credential plug-in {command!r} gave neither a token nor a certificate"


def _from_configuration(
    configuration: Configuration, *, files: tuple[str, ...], expires_at: datetime | None = None
) -> _Loaded:
    token = (configuration.api_key or {}).get("BearerToken")
    if token is not None:
        scheme, _, value = token.partition(" ")
        token = f"{'Bearer' if scheme.lower() == 'bearer' else scheme} {value.strip()}"
    server = configuration.host.rstrip("/")
    return _Loaded(
        server=server,
        ca_file=configuration.ssl_ca_cert,
        cert_file=configuration.cert_file,
        key_file=configuration.key_file,
        verify=bool(configuration.verify_ssl),
        tls_server_name=configuration.tls_server_name,
        proxy=configuration.proxy or _find_proxy(server),
        authorization=token,
        expires_at=expires_at,
        files=files,
    )


def _find_proxy(server: str) -> str | None:
    """Proxy that the environment names for the server; None if there is none or ``NO_PROXY`` exempts it."""
    parts = urllib.parse.urlsplit(server)
    proxy = urllib.request.getproxies_environment().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy
