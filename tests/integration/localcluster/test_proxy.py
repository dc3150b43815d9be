"""Logs, exec and port-forward through the API server, against a stand-in kubelet."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from aiohttp import web

from vkprovider.localcluster.pki import CertificateAuthority

PODS = "/api/v1/namespaces/default/pods"


class Kubelet:
    """Answers as a kubelet does, and notes what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.release = asyncio.Event()
        self.port = 0

    def note(self, request: web.Request) -> None:
        """Keep a request."""
        self.requests.append((request.method, str(request.rel_url), dict(request.headers)))

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Two lines, the second when told."""
        self.note(request)
        if request.match_info["container"] == "broken":
            return web.Response(status=400, text='container "broken" in pod "p" is waiting to start: ContainerCreating')
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"one\n")
        if request.query.get("follow"):
            await self.release.wait()
            await response.write(b"two\n")
        return response

    async def upgrade(self, request: web.Request) -> web.StreamResponse:
        """Echo over a WebSocket; plain refusal without one."""
        self.note(request)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(status=400, text="you must upgrade")
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        async for message in socket:
            if message.data == b"bye":
                break
            await socket.send_bytes(b"echo:" + message.data)
        await socket.close()
        return socket

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """A JSON document."""
        self.note(request)
        return web.json_response({"node": "n1"})


@pytest.fixture
async def kubelet(cluster, client, node, pod, tmp_path):
    fake = Kubelet()
    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", fake.logs)
    for path in ("/exec/{n}/{p}/{c}", "/attach/{n}/{p}/{c}", "/portForward/{n}/{p}"):
        app.router.add_route("*", path, fake.upgrade)
    app.router.add_get("/stats/summary", fake.stats)
    files = CertificateAuthority(tmp_path / "kubelet").ensure_server("kubelet", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cluster.client_ca_path))
    context.load_cert_chain(files.certificate, files.key)
    context.verify_mode = ssl.CERT_REQUIRED
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    fake.port = runner.addresses[0][1]
    await client.ok("POST", "/api/v1/nodes", node("n1", port=fake.port))
    await client.ok("POST", PODS, pod("p", nodeName="n1"))
    two = [{"name": "c", "image": "x"}, {"name": "broken", "image": "x"}]
    await client.ok("POST", PODS, pod("two", nodeName="n1", containers=two))
    yield fake
    fake.release.set()
    await runner.cleanup()


async def test_logs_take_the_only_container_and_translate_parameters(kubelet, client):
    code, text = await client.call("GET", f"{PODS}/p/log", params={"tailLines": "5", "timestamps": "true"})
    assert (code, text) == (200, "one\n")
    assert kubelet.requests[0][1] == "/containerLogs/default/p/c?timestamps=true&tailLines=5"


async def test_followed_logs_arrive_as_they_are_written(kubelet, client):
    async with client.session.get(f"{client.url}{PODS}/p/log", params={"follow": "true"}) as response:
        assert await response.content.readline() == b"one\n"
        kubelet.release.set()
        assert await response.content.readline() == b"two\n"
        assert await response.content.read() == b""


async def test_kubectl_logs_and_exec(kubelet, kubectl):
    assert await kubectl.arun("logs", "p") == "one\n"
    assert await kubectl.arun("logs", "two", "-c", "c", "--tail=1") == "one\n"


async def test_container_must_be_named_when_there_are_several(kubelet, client):
    code, answer = await client.call("GET", f"{PODS}/two/log")
    assert code == 400
    assert answer["message"] == "a container name must be specified for pod two, choose one of: [c broken]"
    code, answer = await client.call("GET", f"{PODS}/two/log", params={"container": "no"})
    assert (code, answer["message"]) == (400, "container no is not valid for pod two")


async def test_the_kubelets_refusal_reaches_the_client(kubelet, client):
    code, answer = await client.call("GET", f"{PODS}/two/log", params={"container": "broken"})
    assert (code, answer["reason"]) == (400, "BadRequest")
    assert answer["message"] == 'container "broken" in pod "p" is waiting to start: ContainerCreating'


async def test_a_websocket_passes_both_ways(kubelet, client):
    url = f"{client.url}{PODS}/p/exec"
    params = [("command", "sh"), ("command", "-c"), ("command", "a b"), ("stdin", "true"), ("stdout", "true")]
    async with client.session.ws_connect(url, params=params, protocols=("v5.channel.k8s.io",)) as socket:
        assert socket.protocol == "v5.channel.k8s.io"
        for size in (1, 70_000, 1_000_000):
            await socket.send_bytes(b"x" * size)
            message = await socket.receive(timeout=10)
            assert message.data == b"echo:" + b"x" * size
        await socket.send_bytes(b"bye")
        assert (await socket.receive(timeout=10)).type.name in ("CLOSE", "CLOSED", "CLOSING")
    method, path, headers = kubelet.requests[-1]
    assert (method, path) == ("GET", "/exec/default/p/c?input=1&output=1&command=sh&command=-c&command=a+b")
    assert "Authorization" not in headers


async def test_a_refused_upgrade_is_an_ordinary_answer(kubelet, client):
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
    code, text = await client.call("POST", f"{PODS}/p/portforward", headers=headers)
    assert (code, text) == (400, "you must upgrade")
    assert kubelet.requests[-1][1] == "/portForward/default/p"
    assert kubelet.requests[-1][2]["X-Stream-Protocol-Version"] == "v4.channel.k8s.io"
    assert (await client.call("GET", f"{PODS}/p"))[0] == 200


async def test_spdy_is_relayed_byte_for_byte(cluster, client, node, pod):
    """A raw server that agrees to SPDY and then echoes: what comes after the 101 is not HTTP."""
    files = cluster.kubelet_client
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Upgrade: SPDY/3.1" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhello")
        while data := await reader.read(1024):
            writer.write(data[::-1])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        await client.ok("POST", "/api/v1/nodes", node("raw", port=server.sockets[0].getsockname()[1]))
        await client.ok("POST", PODS, pod("p", nodeName="raw"))
        outside = ssl.create_default_context(cafile=str(cluster.ca_path))
        pki = cluster.directory / "pki"
        outside.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        host, port = cluster.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=outside)
        writer.write(
            f"POST {PODS}/p/attach?stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(5) == b"hello"
            for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x80\x03\x00\x01abc"):
                writer.write(data)
                assert await reader.readexactly(len(data)) == data[::-1]
        writer.close()
        await writer.wait_closed()


async def test_node_proxy_and_a_kubelet_that_is_not_there(kubelet, client, node, pod):
    assert await client.ok("GET", "/api/v1/nodes/n1/proxy/stats/summary?a=b") == {"node": "n1"}
    assert kubelet.requests[-1][1] == "/stats/summary?a=b"
    await client.ok("POST", "/api/v1/nodes", node("gone", port=1))
    await client.ok("POST", PODS, pod("lost", nodeName="gone"))
    code, answer = await client.call("GET", f"{PODS}/lost/log")
    assert (code, answer["reason"]) == (500, "InternalError")
    assert "https://127.0.0.1:1/containerLogs/default/lost/c" in answer["message"]


async def test_a_followed_log_ends_with_the_client(kubelet, cluster, client):
    response = await client.session.get(f"{client.url}{PODS}/p/log", params={"follow": "true"})
    assert await response.content.readline() == b"one\n"
    response.close()
    assert (await client.call("GET", f"{PODS}/p"))[0] == 200
