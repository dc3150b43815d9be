"""A kubelet API over real TLS on loopback, with certificates, a small API server and a provider made for the test."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vkprovider.aio.clock import SystemClock
from vkprovider.errors import KubeAPIError
from vkprovider.provider.capabilities import (
    AttachCapability,
    ExecCapability,
    LogOptions,
    LogsCapability,
    PortForwardCapability,
)
from vkprovider.provider.pod_provider import PodContext, PodProvider, ProviderPod, SyncResult
from vkprovider.provider.streams import DuplexStream
from vkprovider.server.app import KubeletServer
from vkprovider.server.spdy.connection import SpdyConnection, SpdyStream
from vkprovider.settings import ServerSettings

NODE = "node-1"


class SteppedClock(SystemClock):
    """The machine's clock, moved forward by the test."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class Authority:
    """A certificate authority that signs client certificates into files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=10))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.path = directory / f"{name}.crt"
        self.path.write_text(self.pem)

    def issue(
        self,
        user: str,
        *groups: str,
        begins: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=1),
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
        dns_names: Sequence[str] = (),
    ) -> Path:
        """PEM file with a key and a certificate for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(
                x509.Name(
                    [
                        *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
                        *([x509.NameAttribute(NameOID.COMMON_NAME, user)] if user else []),
                    ]
                )
            )
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if dns_names:
            sans = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names])
            builder = builder.add_extension(sans, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        path = self.directory / f"{self.name}-{certificate.serial_number}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


@dataclass
class FakeKube:
    """Answers reviews and the authentication config map from what the test put here."""

    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    allowed: set[tuple[str, str, str]] = field(default_factory=set)
    client_ca: str | None = None
    failure: Exception | None = None
    requests: list[tuple[str, str, Any]] = field(default_factory=list)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        self.requests.append((method, path, body))
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if path.endswith("/tokenreviews"):
            user = self.tokens.get(body["spec"]["token"])
            return {"status": {"authenticated": True, "user": user} if user else {"authenticated": False}}
        if path.endswith("/subjectaccessreviews"):
            spec = body["spec"]
            attributes = spec["resourceAttributes"]
            key = spec["user"], attributes["verb"], attributes["subresource"]
            return {"status": {"allowed": key in self.allowed}}
        if path.endswith("/configmaps/extension-apiserver-authentication"):
            if self.client_ca is None:
                raise KubeAPIError("not found", status=404, kube_reason="NotFound")
            return {"data": {"client-ca-file": self.client_ca}}
        raise AssertionError(f"unexpected request {method} {path}")

    def count(self, suffix: str) -> int:
        """How many requests went to a path."""
        return sum(1 for _, path, _ in self.requests if path.endswith(suffix))


def make_pod(name: str = "web", *containers: str, namespace: str = "default", tty: bool = False) -> dict[str, Any]:
    """A pod with containers."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {
            "containers": [{"name": c, "image": "busybox", "stdin": True, "tty": tty} for c in containers or ("app",)]
        },
        "status": {"phase": "Running"},
    }


class FakePods:
    """Pods by namespace and name."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.pods = list(pods)

    def find_pod(self, namespace: str, name: str) -> Any:
        for pod in self.pods:
            if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (namespace, name):
                return pod
        return None

    def list_pods(self) -> Sequence[Any]:
        return self.pods


class BareProvider(PodProvider):
    """A provider without any ability."""

    name = "bare"

    def __init__(self) -> None:
        self.listed: list[ProviderPod] = []

    async def sync_pod(self, pod: Any, context: PodContext) -> SyncResult:
        return SyncResult()

    async def terminate_pod(self, pod: Any, context: PodContext, *, grace_period_s: int) -> SyncResult:
        return SyncResult()

    async def cleanup_pod(self, pod_uid: Any) -> None:
        return None

    async def get_pod_status(self, pod: Any, context: PodContext) -> Any:
        return None

    async def list_pods(self) -> Sequence[ProviderPod]:
        return self.listed


class ScriptedProvider(BareProvider, LogsCapability, ExecCapability, AttachCapability, PortForwardCapability):
    """A provider whose abilities are functions that the test sets."""

    name = "scripted"
    logs: Callable[..., AsyncIterator[bytes]]
    exec: Callable[..., Any]
    attach: Callable[..., Any]
    connect: Callable[..., Any]

    def container_logs(self, pod: Any, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        return self.logs(pod, container, options)

    async def exec_in_container(self, pod: Any, container: str, command: Sequence[str], streams: Any) -> int:
        return await self.exec(pod, container, command, streams)

    async def attach_to_container(self, pod: Any, container: str, streams: Any) -> None:
        await self.attach(pod, container, streams)

    async def port_forward(self, pod: Any, port: int) -> Any:
        return await self.connect(pod, port)


@pytest.fixture
def make_authority(tmp_path: Path) -> Callable[[str], Authority]:
    directory = tmp_path / "ca"
    directory.mkdir()
    return lambda name: Authority(directory, name)


@pytest.fixture
def authority(make_authority: Callable[[str], Authority]) -> Authority:
    return make_authority("cluster-ca")


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
def pods() -> FakePods:
    return FakePods(make_pod())


@dataclass
class Node:
    """A running server and how to talk to it."""

    server: KubeletServer
    tls: ssl.SSLContext

    @property
    def port(self) -> int:
        return self.server.port

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"


def client_tls(certificate: Path | None = None) -> ssl.SSLContext:
    """A client context that checks nothing and may bring a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


@pytest.fixture
def make_client_tls() -> Callable[..., ssl.SSLContext]:
    return client_tls


@pytest.fixture
async def start_server(
    tmp_path: Path, kube: FakeKube, provider: ScriptedProvider, pods: FakePods, authority: Authority
) -> AsyncIterator[Callable[..., Any]]:
    """Starts servers and stops them again; checks that no task of theirs is left."""
    before = asyncio.all_tasks()
    servers: list[KubeletServer] = []

    async def start(settings: Mapping[str, Any] | None = None, **arguments: Any) -> Node:
        wanted = {"address": "127.0.0.1", "port": 0, "client_ca_file": authority.path, **(settings or {})}
        server = KubeletServer(
            ServerSettings(**wanted),
            **{
                "node_name": NODE,
                "node_ips": ["127.0.0.1"],
                "root_dir": tmp_path / "root",
                "pods": pods,
                "provider": provider,
                "client": kube,
                **arguments,
            },
        )
        await server.start()
        servers.append(server)
        return Node(server, client_tls(authority.issue("apiserver", "system:masters")))

    yield start
    for server in servers:
        await server.aclose()
    for _ in range(50):
        left = {task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()}
        if not left:
            break
        await asyncio.sleep(0.02)
    assert not left, f"tasks left behind: {left}"


@pytest.fixture
async def node(start_server: Callable[..., Any]) -> Node:
    """A server that lets every authenticated user do everything."""
    return await start_server({"authorization_mode": "AlwaysAllow"})


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client
        await asyncio.sleep(0)


@pytest.fixture
def get(session: aiohttp.ClientSession) -> Callable[..., Any]:
    """GET (or another method) with a node's admin certificate; answers status, text and headers."""

    async def fetch(
        node: Node, path: str, *, method: str = "GET", tls: ssl.SSLContext | None = None, **more: Any
    ) -> Any:
        async with session.request(method, node.url(path), ssl=tls or node.tls, **more) as response:
            return response.status, (await response.read()).decode(), response.headers

    return fetch


@pytest.fixture
def pod_factory() -> Callable[..., dict[str, Any]]:
    return make_pod


@pytest.fixture
def bare_provider() -> BareProvider:
    return BareProvider()


class SpdyClient:
    """A client that upgraded to SPDY: opens streams as kubectl does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = ""
        self.connection: SpdyConnection
        self._pump: asyncio.Task[None] | None = None

    async def upgrade(self, method: str, path: str, headers: Sequence[tuple[str, str]]) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: node", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.writer.write("\r\n".join(lines).encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        for line in head[1:]:
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = (
                f"{self.headers[name.lower()]},{value}" if name.lower() in self.headers else value
            )
        if self.status != 101:
            self.body = (await self.reader.readexactly(int(self.headers.get("content-length", 0)))).decode()
            return
        self.connection = SpdyConnection(self, on_stream=lambda stream: None, server=False)
        self._pump = asyncio.create_task(self._receive())

    def open(self, **headers: str) -> SpdyStream:
        return self.connection.open_stream(headers)

    async def read_all(self, stream: SpdyStream) -> bytes:
        received = bytearray()
        while data := await stream.read():
            received += data
        return bytes(received)

    async def aclose(self) -> None:
        self.writer.transport.abort()
        if self._pump is not None:
            await self._pump

    async def _receive(self) -> None:
        try:
            while data := await self.reader.read(65536):
                self.connection.receive(data)
        except OSError:
            pass
        finally:
            self.connection.lose()

    # A ByteTransport.
    is_full = False

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def drain(self) -> None:
        await self.writer.drain()

    def pause_reading(self) -> None:
        self.writer.transport.pause_reading()

    def resume_reading(self) -> None:
        self.writer.transport.resume_reading()

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


SPDY_UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"))


@pytest.fixture
async def dial(node: Node) -> AsyncIterator[Callable[..., Any]]:
    """Upgrades to SPDY on the node and hands out the client."""
    clients: list[SpdyClient] = []

    async def connect(
        path: str,
        *protocols: str,
        method: str = "POST",
        headers: Sequence[tuple[str, str]] = SPDY_UPGRADE,
        to: Node | None = None,
    ) -> SpdyClient:
        target = to or node
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port, ssl=target.tls)
        client = SpdyClient(reader, writer)
        clients.append(client)
        offered = [("X-Stream-Protocol-Version", protocol) for protocol in protocols]
        await client.upgrade(method, path, [*headers, *offered])
        return client

    yield connect
    for client in clients:
        await client.aclose()


class SocketStream(DuplexStream):
    """A TCP connection as a provider gives it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.closed = False

    async def read(self, max_bytes: int = 65536) -> bytes:
        return await self.reader.read(max_bytes)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def write_eof(self) -> None:
        if self.writer.can_write_eof():
            self.writer.write_eof()

    async def aclose(self) -> None:
        self.closed = True
        self.writer.transport.abort()


@pytest.fixture
async def tcp_server() -> AsyncIterator[Callable[..., Any]]:
    """Starts TCP servers on loopback; answers their port."""
    servers: list[asyncio.Server] = []

    async def start(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> int:
        async def guard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handle(reader, writer)
            except OSError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(guard, "127.0.0.1", 0)
        servers.append(server)
        return server.sockets[0].getsockname()[1]

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


@pytest.fixture
def remotes(provider: ScriptedProvider) -> list[SocketStream]:
    """Lets the provider reach ports of this machine; lists the connections made."""
    made: list[SocketStream] = []

    async def connect(pod: Any, port: int) -> DuplexStream:
        stream = SocketStream(*await asyncio.open_connection("127.0.0.1", port))
        made.append(stream)
        return stream

    provider.connect = connect
    return made
