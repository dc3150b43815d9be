"""The local cluster as one part: certificates, API server, controllers and scheduler, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.errors import ConfigurationError
from vkprovider.localcluster.apiserver import APIServer
from vkprovider.localcluster.authentication import Authenticator
from vkprovider.localcluster.bootstrap import Bootstrap
from vkprovider.localcluster.content import MAX_BODY_BYTES
from vkprovider.localcluster.handlers import ResourceHandlers
from vkprovider.localcluster.kubeconfig import write_kubeconfig
from vkprovider.localcluster.lifecycle import LifecycleController
from vkprovider.localcluster.objects import ObjectService
from vkprovider.localcluster.persistence import StateFile
from vkprovider.localcluster.pki import CertificateAuthority, CertificateFiles, load_or_make_key
from vkprovider.localcluster.proxy import KubeletProxy
from vkprovider.localcluster.registry import Registry
from vkprovider.localcluster.reviews import Authorizer, Reviews
from vkprovider.localcluster.scheduler import Scheduler
from vkprovider.localcluster.signing import CertificateSigner
from vkprovider.localcluster.store import Change, Store
from vkprovider.localcluster.strategies import Strategies
from vkprovider.localcluster.subresources import Subresources
from vkprovider.localcluster.tokens import TokenIssuer
from vkprovider.localcluster.users import MASTERS, NODE_USER_PREFIX, NODES

logger = logging.getLogger(__name__)
SHUTDOWN_S: Final = 2.0
_LINE_BYTES: Final = 64 * 1024


class LocalCluster:
    """An API server with a scheduler in this process, for development, tests and trying out.

    Production is any real cluster. Use it as ``async with LocalCluster(directory) as cluster`` or by ``start`` and
    ``stop``.

    Args:
        directory: Where certificates (``pki/``) and kubeconfigs are kept, so that a restart keeps its identity; a
            temporary directory, removed on stop, when None.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        state_file: SQLite file that the objects are kept in; None keeps them in memory only.
        scheduler: Whether pending pods are put on nodes.
        extra_names: More host names and addresses for the serving certificate.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        state_file: Path | None = None,
        scheduler: bool = True,
        extra_names: Sequence[str] = (),
    ) -> None:
        self._directory = directory
        self._host = host
        self._port = port
        self._state_file = StateFile(state_file) if state_file is not None else None
        self._with_scheduler = scheduler
        self._extra_names = tuple(extra_names)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._root: Path | None = None
        self._authority: CertificateAuthority | None = None
        self._runner: web.ServerRunner | None = None
        self._handlers: ResourceHandlers | None = None
        self._proxy: KubeletProxy | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._change_hooks: list[Any] = []
        self.store: Final = Store(self._changed)
        self.registry: Final = Registry()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """``host:port`` that it listens on; known once started."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    @property
    def url(self) -> str:
        """URL of the API server; known once started."""
        return f"https://{self.address}"

    @property
    def directory(self) -> Path:
        """Where certificates and kubeconfigs are; known once started.

        Raises:
            ConfigurationError: It was not started.
        """
        if self._root is None:
            raise ConfigurationError("the local cluster is not running; start it first")
        return self._root

    @property
    def kubeconfig_path(self) -> Path:
        """Kubeconfig of a cluster administrator."""
        return self.directory / "admin.kubeconfig"

    @property
    def ca_path(self) -> Path:
        """Certificate of the authority that signed the serving certificate."""
        return self.directory / "pki" / "ca.crt"

    @property
    def client_ca_path(self) -> Path:
        """Certificate of the authority that signed the clients' certificates; the kubelet's ``--client-ca-file``."""
        return self.ca_path

    @property
    def kubelet_client(self) -> CertificateFiles:
        """The certificate that the API server shows to kubelets."""
        pki = self.directory / "pki"
        return CertificateFiles(pki / "apiserver-kubelet-client.crt", pki / "apiserver-kubelet-client.key")

    @property
    def objects(self) -> ObjectService:
        """The objects, for tests that look at or change them without HTTP.

        Raises:
            ConfigurationError: It was not started.
        """
        if self._objects is None:
            raise ConfigurationError("the local cluster is not running; start it first")
        return self._objects

    _objects: ObjectService | None = None

    async def start(self) -> None:
        """Make or load certificates, load the state, and serve.

        Raises:
            ConfigurationError: The port is taken, or the directory or state file cannot be used.
        """
        if self._runner is not None:
            raise ConfigurationError("the local cluster is running already")
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        if self._directory is None:
            self._temporary = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="vkprovider-cluster-")
            self._root = Path(self._temporary.name)
        else:
            self._root = self._directory.absolute()
        authority, key, serving, kubelet_client = await asyncio.to_thread(self._prepare_files)
        self._authority = authority
        restored = await self._state_file.load(self.store) if self._state_file is not None else False

        strategies = Strategies(self.store)
        objects = self._objects = ObjectService(self.store, self.registry, strategies)
        lifecycle = LifecycleController(objects)
        bootstrap = Bootstrap(objects, authority.pem.decode())
        strategies.on_write("namespaces", bootstrap.on_namespace)
        signer = CertificateSigner(authority, objects.rewrite)
        strategies.on_write("certificatesigningrequests.certificates.k8s.io", signer.on_write)
        tokens = TokenIssuer(key, self.store)
        handlers = self._handlers = ResourceHandlers(objects)
        self._proxy = KubeletProxy(objects, kubelet_client)
        await self._proxy.start()
        server = APIServer(
            self.registry,
            Authenticator(tokens),
            handlers,
            Subresources(objects, handlers, tokens),
            Reviews(handlers, Authorizer(self.store), tokens),
            self._proxy,
            tokens,
            lambda: self.address,
        )
        if restored:
            lifecycle.adopt()
        self._change_hooks.append(lifecycle.changed)
        if self._state_file is not None:
            self._change_hooks.append(self._state_file.changed)

        context = await asyncio.to_thread(self._make_context, serving, authority)
        await self._listen(server, context)
        bootstrap.run(self.address)
        await asyncio.to_thread(self._write_admin_kubeconfig)
        self._tasks.append(asyncio.create_task(lifecycle.run(), name="local-cluster-lifecycle"))
        if self._with_scheduler:
            self._tasks.append(asyncio.create_task(Scheduler(objects).run(), name="local-cluster-scheduler"))
        if self._state_file is not None:
            self._tasks.append(asyncio.create_task(self._state_file.run(), name="local-cluster-state"))
        for task in self._tasks:
            task.add_done_callback(_report_failure)
        logger.info("Local cluster is serving", extra={"url": self.url, "kubeconfig": str(self.kubeconfig_path)})

    async def stop(self) -> None:
        """End watches and relays, stop serving, write the state; safe to repeat."""
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(tasks)
        if self._handlers is not None:
            self._handlers.close()
        if self._proxy is not None:
            await self._proxy.close()
            self._proxy = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._state_file is not None:
            await self._state_file.flush()
        self._change_hooks.clear()
        if self._temporary is not None:
            await asyncio.to_thread(self._temporary.cleanup)
            self._temporary = None

    async def write_kubeconfig(self, path: Path, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig for another user, with a client certificate made for it.

        Args:
            path: The file; its certificate and key are kept in the cluster's directory.
            user: User name, e.g. ``system:node:a``.
            groups: Groups, e.g. ``system:nodes``.

        Returns:
            The path.
        """
        if self._authority is None:
            raise ConfigurationError("the local cluster is not running; start it first")
        await asyncio.to_thread(self._write_user_kubeconfig, self._authority, path, user, tuple(groups))
        return path

    async def write_node_kubeconfig(self, path: Path, node: str) -> Path:
        """Write a kubeconfig as a kubelet of this node name has it."""
        return await self.write_kubeconfig(path, f"{NODE_USER_PREFIX}{node}", (NODES,))

    def _changed(self, collection: str, change: Change) -> None:
        for hook in self._change_hooks:
            hook(collection, change)

    def _prepare_files(self) -> tuple[CertificateAuthority, Any, CertificateFiles, CertificateFiles]:
        pki = self.directory / "pki"
        try:
            authority = CertificateAuthority(pki)
            names = [
                "localhost",
                "127.0.0.1",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "10.96.0.1",
            ]
            with contextlib.suppress(ValueError):
                if not ipaddress.ip_address(self._host).is_unspecified:
                    names.append(self._host)
            serving = authority.ensure_server("apiserver", [*names, *self._extra_names])
            kubelet_client = authority.ensure_client(
                "apiserver-kubelet-client", "kube-apiserver-kubelet-client", (MASTERS,)
            )
            authority.ensure_client("admin", "kubernetes-admin", (MASTERS,))
            return authority, load_or_make_key(pki / "sa.key"), serving, kubelet_client
        except OSError as error:
            raise ConfigurationError(f"the local cluster cannot use the directory {self.directory}: {error}") from error

    @staticmethod
    def _make_context(serving: CertificateFiles, authority: CertificateAuthority) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(serving.certificate, serving.key)
        context.load_verify_locations(authority.certificate_path)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def _listen(self, server: APIServer, context: ssl.SSLContext) -> None:
        web_server = web.Server(
            server.handle,
            request_factory=_make_request,
            handler_cancellation=True,
            access_log=None,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
        )
        self._runner = web.ServerRunner(web_server, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=context, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"the local cluster cannot listen on {self._host}:{self._port}: {error.strerror or error}; choose another port"
            ) from error
        self._port = self._runner.addresses[0][1]

    def _write_admin_kubeconfig(self) -> None:
        pki = self.directory / "pki"
        write_kubeconfig(
            self.kubeconfig_path,
            server=self.url,
            ca=self.ca_path,
            client=CertificateFiles(pki / "admin.crt", pki / "admin.key"),
            context="vkprovider-local",
            user="kubernetes-admin",
        )

    def _write_user_kubeconfig(
        self, authority: CertificateAuthority, path: Path, user: str, groups: tuple[str, ...]
    ) -> None:
        safe = "".join(character if character.isalnum() or character in "-." else "_" for character in user)
        client = authority.ensure_client(f"user-{safe}", user, groups)
        write_kubeconfig(path, server=self.url, ca=self.ca_path, client=client, context="vkprovider-local", user=user)


def _report_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("Part of the local cluster failed", extra={"part": task.get_name()}, exc_info=task.exception())


def _make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=MAX_BODY_BYTES
    )
