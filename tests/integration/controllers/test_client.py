"""The API client over real connections: TLS, credentials, lost connections, errors."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl

import pytest
import yaml
from aiohttp import web

from support.exposition import parse_exposition
from support.pki import CertificateAuthority
from vkprovider.errors import KubeAPIError, TransientError
from vkprovider.kube.client import KubeClient
from vkprovider.kube.credentials import load_credentials
from vkprovider.metrics import KubeletMetrics
from vkprovider.settings import ClusterSettings


class Server:
    """An HTTPS server that asks for a client certificate, and whatever handler the test gives it."""

    def __init__(self, directory):
        self.authority = CertificateAuthority(directory)
        self.directory = directory
        self.requests = []
        self.handler = None
        self.port = 0

    async def start(self):
        pair = self.authority.issue("server", "server", hosts=["api.example.com"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        context.load_verify_locations(self.authority.files.certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def _handle(self, request):
        self.requests.append(request)
        return await self.handler(request)

    def kubeconfig(self, user, **cluster):
        path = self.directory / "kubeconfig"
        entry = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.authority.files.certificate),
            "tls-server-name": "api.example.com",
            **cluster,
        }
        config = {
            "current-context": "x",
            "clusters": [{"name": "x", "cluster": entry}],
            "users": [{"name": "x", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path


@pytest.fixture
async def server(tmp_path):
    server = Server(tmp_path / "pki")
    await server.start()
    yield server
    await server.runner.cleanup()


@pytest.fixture
async def make_client(server):
    made = []

    async def make(user=None, settings=None, metrics=None, **cluster):
        credentials = await load_credentials(server.kubeconfig(user or {"token": "t"}, **cluster))
        client = KubeClient(credentials, settings, metrics=metrics)
        made.append(client)
        return client

    yield make
    for client in made:
        await client.aclose()


async def ok(request):
    return web.json_response({"kind": "Thing", "path": request.path, "query": dict(request.query)})


async def test_answer_is_decoded_and_connection_kept(server, make_client):
    server.handler = ok
    client = await make_client()
    for _ in range(3):
        answer = await client.request("GET", "/api/v1/x", params={"fieldSelector": "spec.nodeName=a b"})
    assert answer == {"kind": "Thing", "path": "/api/v1/x", "query": {"fieldSelector": "spec.nodeName=a b"}}
    assert len({request.transport.get_extra_info("peername") for request in server.requests}) == 1
    assert server.requests[0].headers["User-Agent"].startswith("vkprovider/")
    assert server.requests[0].headers["Authorization"] == "Bearer t"


async def test_requests_are_counted_by_status(server, make_client):
    async def refuse(request):
        if request.path == "/lost":
            request.transport.abort()
        return web.json_response({"kind": "Status", "reason": "NotFound"}, status=404)

    metrics = KubeletMetrics()
    client = await make_client(metrics=metrics)
    server.handler = ok
    await client.request("GET", "/x")
    server.handler = refuse
    with pytest.raises(KubeAPIError):
        await client.request("GET", "/x")
    with pytest.raises(TransientError):
        await client.request("POST", "/lost", body={})
    shown = parse_exposition(metrics.render())
    host = client.credentials.server.removeprefix("https://")
    for code, method in (("200", "GET"), ("404", "GET"), ("<error>", "POST")):
        assert shown.value("rest_client_requests_total", code=code, method=method, host=host) == 1
    assert shown.value("rest_client_request_duration_seconds_count", verb="GET", host=host) == 2


async def test_body_and_media_type(server, make_client):
    async def echo(request):
        return web.json_response({"type": request.content_type, "body": await request.json()})

    server.handler = echo
    client = await make_client()
    answer = await client.request("PATCH", "/x", body={"a": "ä"}, content_type="application/merge-patch+json")
    assert answer == {"type": "application/merge-patch+json", "body": {"a": "ä"}}
    assert await client.request("PATCH", "/x", body={}, decode=False) == {}


async def test_client_certificate_is_shown_and_a_renewed_one_after_a_refusal(server, make_client, monkeypatch):
    monkeypatch.setattr("vkprovider.kube.credentials._MIN_RELOAD_INTERVAL_S", 0.0)

    async def name(request):
        subject = dict(part[0] for part in request.transport.get_extra_info("peercert")["subject"])
        status = 401 if subject["commonName"] == "old" else 200
        response = web.json_response({"name": subject["commonName"]}, status=status)
        response.force_close()
        return response

    server.handler = name
    pair = server.authority.issue("client", "first")
    client = await make_client({"client-certificate": str(pair.certificate), "client-key": str(pair.key)})
    assert await client.request("GET", "/x") == {"name": "first"}
    server.authority.issue("client", "old")
    await client.credentials.invalidate()
    server.authority.issue("client", "new")
    assert await client.request("GET", "/x") == {"name": "new"}


async def test_server_of_another_name_or_authority_is_not_trusted(server, make_client, tmp_path):
    server.handler = ok
    for cluster in (
        {"tls-server-name": "other.example.com"},
        {"certificate-authority": str(CertificateAuthority(tmp_path / "else").files.certificate)},
    ):
        client = await make_client(**cluster)
        with pytest.raises(TransientError, match="cannot connect"):
            await client.request("GET", "/x")


async def test_expired_token_is_read_anew_and_the_request_repeated(server, make_client, tmp_path):
    token = tmp_path / "token"
    token.write_text("old")

    async def check(request):
        good = request.headers["Authorization"] == "Bearer new"
        return web.json_response({"good": good}, status=200 if good else 401)

    server.handler = check
    client = await make_client({"tokenFile": str(token)})
    with pytest.raises(KubeAPIError) as caught:
        await client.request("POST", "/x", body={})
    assert caught.value.status == 401
    token.write_text("new")
    await asyncio.sleep(1.1)
    assert await client.request("POST", "/x", body={}) == {"good": True}


@pytest.mark.parametrize(
    ("method", "repeated"), [("GET", True), ("PUT", True), ("PATCH", True), ("DELETE", True), ("POST", False)]
)
async def test_only_what_is_safe_to_repeat_is_repeated_after_a_lost_connection(server, make_client, method, repeated):
    async def drop(request):
        request.transport.abort()
        return web.Response()

    server.handler = drop
    client = await make_client()
    with pytest.raises(TransientError, match="lost the connection"):
        await client.request(method, "/x")
    # aiohttp repeats some methods by itself as well.
    assert len(server.requests) in ((2, 4) if repeated else (1,))


async def test_lost_connection_is_not_noticed_when_the_second_try_works(server, make_client):
    async def drop_first(request):
        if len(server.requests) == 1:
            request.transport.abort()
        return await ok(request)

    server.handler = drop_first
    assert (await (await make_client()).request("PUT", "/x", body={}))["path"] == "/x"


async def test_slow_answer_is_given_up(server, make_client):
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return web.Response()

    server.handler = slow
    client = await make_client(settings=ClusterSettings(request_timeout_s=0.2))
    with pytest.raises(TransientError, match="in time"):
        await client.request("GET", "/x")
    assert len(server.requests) == 1
    with pytest.raises(TransientError, match="in time"):
        await client.request("GET", "/x", timeout_s=0.1)
    release.set()


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (
            409,
            {"kind": "Status", "reason": "AlreadyExists", "message": 'pods "x" already exists'},
            {},
            ("AlreadyExists", None, 'POST /x: 409 pods "x" already exists'),
        ),
        (
            429,
            {"kind": "Status", "reason": "TooManyRequests", "message": "slow"},
            {"Retry-After": "3"},
            ("TooManyRequests", 3.0, "POST /x: 429 slow"),
        ),
        (502, "bad gateway", {}, ("", None, "POST /x: 502 bad gateway")),
        (503, "", {}, ("", None, "POST /x: 503 Service Unavailable")),
    ],
)
async def test_errors_carry_what_the_server_said(server, make_client, status, body, headers, expected):
    async def refuse(request):
        return web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body), headers=headers)

    server.handler = refuse
    with pytest.raises(KubeAPIError) as caught:
        await (await make_client()).request("POST", "/x", body={})
    error = caught.value
    assert error.status == status
    assert (error.kube_reason, error.retry_after_s, str(error)) == expected


@pytest.mark.parametrize("text", ["not json", "[]"])
async def test_unreadable_answer_is_passing_trouble(server, make_client, text):
    async def answer(request):
        return web.Response(text=text)

    server.handler = answer
    with pytest.raises(TransientError, match="is not"):
        await (await make_client()).request("GET", "/x")


async def test_no_server(server, make_client):
    client = await make_client()
    await server.runner.cleanup()
    with pytest.raises(TransientError, match=f"cannot connect to the API server https://127.0.0.1:{server.port}"):
        await client.request("GET", "/x")


async def test_warning_of_the_server_is_logged_once(server, make_client, caplog):
    async def warn(request):
        return web.json_response({}, headers={"Warning": '299 - "this field is deprecated"'})

    server.handler = warn
    client = await make_client()
    with caplog.at_level(logging.WARNING, logger="vkprovider.kube.client"):
        for _ in range(3):
            await client.request("GET", "/x")
    assert [record.warning for record in caplog.records] == ['299 - "this field is deprecated"']


async def test_session_for_the_watch_engine_has_fresh_credentials_and_server_name(server, make_client, tmp_path):
    token = tmp_path / "token"
    token.write_text("one")
    server.handler = ok
    credentials = (await make_client({"tokenFile": str(token)})).credentials
    session = credentials.create_session()
    try:
        async with session.get(f"{credentials.server}/x") as response:
            assert response.status == 200
        token.write_text("two")
        await credentials.invalidate()
        async with session.get(f"{credentials.server}/x") as response:
            assert response.status == 200
    finally:
        await session.close()
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer one", "Bearer two"]
