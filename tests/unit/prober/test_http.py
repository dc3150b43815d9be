"""Messages are those of Go 1.26's net/http, taken from the real client against servers that misbehave in the same way."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vkprovider.kubelet.prober.http import HTTPFailureError, HTTPResponse, get, make_request, resolve_port
from vkprovider.kubelet.prober.probes import ProbeAttempt, ProbeOutcome, Prober

Serve = Callable[..., Awaitable[int]]


def answering(*answers: bytes, hang: bool = False, reset: bool = False, seen: list[bytes] | None = None) -> Any:
    """A handler that reads a request, sends the next answer, and then closes, hangs or resets the connection."""
    waiting = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        writer.write(waiting.pop(0) if len(waiting) > 1 else waiting[0])
        await writer.drain()
        if hang:
            await asyncio.sleep(3600)
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            writer.transport.abort()

    return handle


async def fetch(port: int, path: str = "/x", *, timeout_s: float = 5.0, **action: Any) -> HTTPResponse:
    request = make_request({"host": "127.0.0.1", "port": port, "path": path, **action}, {}, "", purpose="probe")
    return await get(request, timeout_s=timeout_s)


async def failure(port: int, path: str = "/x", **options: Any) -> str:
    with pytest.raises(HTTPFailureError) as caught:
        await fetch(port, path, **options)
    return str(caught.value).replace(f"127.0.0.1:{port}", "HOST")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "EOF"),
        (b"SSH-2.0-OpenSSH_9\r\n", 'malformed HTTP response "SSH-2.0-OpenSSH_9"'),
        (b"HTTP/1.1 abc OK\r\n\r\n", 'malformed HTTP status code "abc"'),
        (b"HTTP/1.1\r\n\r\n", 'malformed HTTP response "HTTP/1.1"'),
        (b"hello world\n", 'malformed HTTP status code "world"'),
        (b"HTTP/1.1 200 OK\r\nFoo: b", "unexpected EOF"),
        (b"HTTP/1.1 200 OK\r\nFoobar\r\n\r\n", 'malformed MIME header: missing colon: "Foobar"'),
        (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc", 'bad Content-Length "abc"'),
    ],
)
async def test_servers_that_do_not_speak_http(serve: Serve, answer: bytes, message: str) -> None:
    text = message if message == "EOF" else f"net/http: HTTP/1.x transport connection broken: {message}"
    assert await failure(await serve(answering(answer))) == f'Get "http://HOST/x": {text}'


async def test_foreign_protocol_is_noticed_without_waiting(serve: Serve) -> None:
    port = await serve(answering(b"SSH-2.0-OpenSSH_9\r\n", hang=True))
    assert "malformed HTTP response" in await failure(port, timeout_s=30)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nhello", (200, b"hello", None)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", (204, b"", None)),
        (b"HTTP/1.1 200 OK\nA: b\n\nhello", (200, b"hello", None)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", (200, b"abc", None)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", (200, b"", "unexpected EOF")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", (200, b"abcde", None)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", (200, b"", "invalid byte in chunk length")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", (200, b"", "unexpected EOF")),
        (b"HTTP/1.1 301 Moved\r\nContent-Length: 3\r\n\r\nabc", (301, b"abc", None)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 20_000, (200, b"x" * 10_240, None)),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 20_000, (200, b"x" * 10_240, None)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n" + b"x" * 20_480, (200, b"x" * 10_240, None)),
    ],
)  # fmt: skip
async def test_answers(serve: Serve, answer: bytes, expected: Any) -> None:
    got = await fetch(await serve(answering(answer)))
    assert (got.status, got.body, got.body_error) == expected


async def test_body_beyond_the_cap_is_not_waited_for(serve: Serve) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 10_240
    got = await fetch(await serve(answering(answer, hang=True)), timeout_s=30)
    assert len(got.body) == 10_240


async def test_server_that_never_answers(serve: Serve) -> None:
    text = await failure(await serve(answering(b"", hang=True)), timeout_s=0.1)
    assert text == 'Get "http://HOST/x": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'


async def test_body_that_never_ends_its_length(serve: Serve) -> None:
    got = await fetch(
        await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", hang=True)), timeout_s=0.1
    )
    assert got.body_error == "context deadline exceeded (Client.Timeout or context cancellation while reading body)"


async def test_connection_reset_names_both_ends(serve: Serve) -> None:
    text = await failure(await serve(answering(b"", reset=True)))
    assert text.startswith('Get "http://HOST/x": read tcp 127.0.0.1:')
    assert text.endswith("->HOST: read: connection reset by peer")


async def test_nobody_listens(unused_port: int) -> None:
    text = await failure(unused_port, "/p?q=1")
    assert text == 'Get "http://HOST/p?q=1": dial tcp HOST: connect: connection refused'
    with pytest.raises(HTTPFailureError) as caught:
        await fetch(unused_port, host="::1")
    assert str(caught.value) == (
        f'Get "http://[::1]:{unused_port}/x": dial tcp [::1]:{unused_port}: connect: connection refused'
    )


async def test_unknown_host_name() -> None:
    with pytest.raises(HTTPFailureError, match=r": dial tcp: lookup nosuch\.invalid: no such host$"):
        await fetch(80, host="nosuch.invalid")


async def test_request_as_sent(serve: Serve) -> None:
    seen: list[bytes] = []
    port = await serve(answering(b"HTTP/1.1 200 OK\r\n\r\n", seen=seen))
    await fetch(port, "healthz?full=1#frag")
    headers = [
        {"name": "host", "value": "app.example"},
        {"name": "x-token", "value": "a"},
        {"name": "X-Token", "value": "b"},
        {"name": "Accept", "value": ""},
        {"name": "user-agent", "value": "mine"},
    ]
    await fetch(port, httpHeaders=headers)
    first, second = ([line.decode() for line in request.split(b"\r\n") if line] for request in seen)
    assert first == [
        "GET /healthz?full=1 HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Accept: */*",
        "User-Agent: kube-probe/1.36",
        "Connection: close",
    ]
    assert second == [
        "GET /x HTTP/1.1",
        "Host: app.example",
        "User-Agent: mine",
        "X-Token: a",
        "X-Token: b",
        "Connection: close",
    ]


# Go: formatURL and URL.String for these paths.
@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("a", "/a"),
        ("/a b", "/a%20b"),
        ("/%zz", "/%25zz"),
        ("/%zz?q=1", "/%25zz%3Fq=1"),
        ("/a%2Fb", "/a%2Fb"),
        ("/ä", "/%C3%A4"),
        ("/a?x=%zz&y", "/a?x=%zz&y"),
        ("/a?", "/a?"),
        ("//host/path", "/path"),
        ("/a;b,c@d:e!$&'()*+=[]", "/a;b,c@d:e!$&'()*+=[]"),
        ("/a\nb", "/a%0Ab"),
    ],
)
def test_paths_are_escaped_as_go_escapes(path: str, target: str) -> None:
    assert make_request({"port": 80, "path": path}, {}, "10.0.0.1", purpose="probe").target == target


def test_address_of_the_pod_stands_in_for_a_missing_host() -> None:
    request = make_request({"port": "web", "scheme": "HTTPS"}, CONTAINER, "fd00::5", purpose="lifecycle")
    assert request.url == "https://[fd00::5]:8080/"
    assert ("User-Agent", "kube-lifecycle/1.36") in request.headers


CONTAINER: Any = {"ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 1}]}


def test_ports_by_number_name_and_text() -> None:
    assert [resolve_port(port, CONTAINER) for port in (80, "web", "81")] == [80, 8080, 81]


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ("nope", 'strconv.Atoi: parsing "nope": invalid syntax'),
        (0, "invalid port number: 0"),
        (65536, "invalid port number: 65536"),
        ("-1", "invalid port number: -1"),
    ],
)
async def test_unknown_ports_are_errors_of_the_probe(port: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        resolve_port(port, CONTAINER)
    assert str(caught.value) == message
    for kind in ("httpGet", "tcpSocket"):
        got = await Prober({kind: {"port": port}}, CONTAINER, exec_probe=None).attempt({}, pod_ip="127.0.0.1")
        assert got == ProbeAttempt(ProbeOutcome.UNKNOWN, error=message)


def test_headers_that_would_break_the_request_are_refused() -> None:
    for name, value in (("X-A", "b\r\nEvil: 1"), ("bad name", "x")):
        with pytest.raises(ValueError, match="invalid header field"):
            make_request({"port": 80, "httpHeaders": [{"name": name, "value": value}]}, {}, "h", purpose="probe")


async def test_redirects_on_the_same_host_are_followed(serve: Serve) -> None:
    seen: list[bytes] = []
    port = await serve(
        answering(
            b"HTTP/1.1 302 Found\r\nLocation: sub/b?x=1\r\n\r\n",
            b"HTTP/1.1 308 Permanent\r\nLocation: /c\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nend",
            seen=seen,
        )
    )
    got = await fetch(port, "/a/", httpHeaders=[{"name": "Host", "value": "app"}, {"name": "X-A", "value": "1"}])
    assert (got.status, got.body) == (200, b"end")
    assert [request.split(b" ")[1] for request in seen] == [b"/a/", b"/a/sub/b?x=1", b"/c"]
    assert all(b"\r\nHost: app\r\n" in request and b"\r\nX-A: 1\r\n" in request for request in seen)
    assert f"Referer: http://127.0.0.1:{port}/a/".encode() in seen[1]


async def test_endless_redirects(serve: Serve) -> None:
    seen: list[bytes] = []
    port = await serve(answering(b"HTTP/1.1 302 Found\r\nLocation: /again?x=1\r\n\r\n", seen=seen))
    assert await failure(port) == 'Get "/again?x=1": stopped after 10 redirects'
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("ftp://127.0.0.1/x", 'Get "ftp://127.0.0.1/x": unsupported protocol scheme "ftp"'),
        ("http://[::1/x", 'Get "http://HOST/x": failed to parse Location header "http://[::1/x": '),
    ],
)
async def test_redirects_that_lead_nowhere(serve: Serve, location: str, message: str) -> None:
    port = await serve(answering(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode()))
    assert (await failure(port)).startswith(message)


async def test_redirect_to_another_host_is_a_warning(serve: Serve) -> None:
    port = await serve(answering(b"HTTP/1.1 302 Found\r\nLocation: http://localhost/x\r\nContent-Length: 3\r\n\r\nabc"))
    got = await probe(port)
    assert got == ProbeAttempt(ProbeOutcome.WARNING, "Probe terminated redirects, Response body: abc")


async def probe(port: int, **extra: Any) -> ProbeAttempt:
    spec = {"httpGet": {"port": port, "path": "/"}, "timeoutSeconds": 5, **extra}
    return await Prober(spec, {"name": "c"}, exec_probe=None).attempt({}, pod_ip="127.0.0.1")


@pytest.mark.parametrize(
    ("status", "outcome", "output"),
    [
        (200, ProbeOutcome.SUCCESS, "body"),
        (299, ProbeOutcome.SUCCESS, "body"),
        (304, ProbeOutcome.WARNING, "Probe terminated redirects, Response body: "),
        (399, ProbeOutcome.WARNING, "Probe terminated redirects, Response body: body"),
        (400, ProbeOutcome.FAILURE, "HTTP probe failed with statuscode: 400"),
        (503, ProbeOutcome.FAILURE, "HTTP probe failed with statuscode: 503"),
        (101, ProbeOutcome.FAILURE, "HTTP probe failed with statuscode: 101"),
    ],
)
async def test_what_a_status_code_means(serve: Serve, status: int, outcome: ProbeOutcome, output: str) -> None:
    port = await serve(answering(f"HTTP/1.1 {status} X\r\n\r\nbody".encode()))
    assert await probe(port) == ProbeAttempt(outcome, output)


async def test_unreadable_body_is_an_error_and_no_answer_a_failure(serve: Serve, unused_port: int) -> None:
    got = await probe(await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")))
    assert got == ProbeAttempt(ProbeOutcome.FAILURE, error="unexpected EOF")
    got = await probe(unused_port)
    assert got.outcome is ProbeOutcome.FAILURE
    assert got.output.endswith("connect: connection refused")


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody can verify: self-signed, expired, for another name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other.example")])
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(past)
        .not_valid_after(past + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "pair.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_https_without_verification(serve: Serve, server_tls: ssl.SSLContext) -> None:
    port = await serve(answering(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 9_000), ssl=server_tls)
    got = await fetch(port, scheme="HTTPS")
    assert (got.status, len(got.body)) == (200, 9_000)


async def test_https_against_a_plain_server(serve: Serve) -> None:
    async def answer_anything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    text = await failure(await serve(answer_anything), scheme="HTTPS")
    assert text == 'Get "https://HOST/x": http: server gave HTTP response to HTTPS client'


async def test_https_against_no_tls_at_all(serve: Serve) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"220 smtp ready\r\n")
        await writer.drain()

    text = await failure(await serve(shout), scheme="HTTPS")
    assert text == 'Get "https://HOST/x": tls: first record does not look like a TLS handshake'


async def test_cancelled_request_leaves_no_connection(serve: Serve) -> None:
    port = await serve(answering(b"", hang=True))
    task = asyncio.create_task(fetch(port))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
