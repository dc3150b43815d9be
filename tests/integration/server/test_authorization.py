"""Who may do what."""

from __future__ import annotations

import asyncio

import pytest

from vkprovider.errors import KubeAPIError, TransientError


async def test_denied_request_names_what_was_tried(start_server, get):
    node = await start_server()
    status, text, _ = await get(node, "/pods")
    assert status == 403
    assert text == "Forbidden (user=apiserver, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"


async def test_any_of_the_subresources_will_do(start_server, get, kube):
    node = await start_server()
    kube.allowed.add(("apiserver", "get", "proxy"))
    assert (await get(node, "/pods"))[0] == 200
    spec = kube.requests[-1][2]["spec"]
    assert spec["resourceAttributes"] == {
        "verb": "get",
        "version": "v1",
        "resource": "nodes",
        "subresource": "proxy",
        "name": "node-1",
    }
    assert spec["groups"] == ["system:masters", "system:authenticated"]
    assert spec["extra"]["authentication.kubernetes.io/credential-id"][0].startswith("X509SHA256=")


async def test_right_to_one_thing_is_no_right_to_another(start_server, get, kube):
    node = await start_server()
    kube.allowed.add(("apiserver", "get", "pods"))
    assert (await get(node, "/pods"))[0] == 200
    assert (await get(node, "/containerLogs/default/web/app"))[0] == 403


@pytest.mark.parametrize(
    "path", ["/pods/../exec/default/web/app", "/pods%2F..%2Fexec/default/web/app", "//exec/default/web/app", "/pods//"]
)
async def test_path_tricks_reach_nothing(start_server, kube, path, node, make_client_tls):
    strict = await start_server()
    kube.allowed.add(("apiserver", "get", "pods"))
    for target, wanted in ((strict, {403, 404}), (node, {404})):
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port, ssl=target.tls)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        await reader.read()
        writer.close()
        await writer.wait_closed()
        assert status in wanted


async def test_answers_are_remembered_for_their_time(start_server, get, kube, clock):
    node = await start_server(clock=clock)
    for _ in range(2):
        assert (await get(node, "/pods"))[0] == 403
    assert kube.count("subjectaccessreviews") == 2  # pods, then proxy
    kube.allowed.add(("apiserver", "get", "pods"))
    clock.ahead_s = 29.0
    assert (await get(node, "/pods"))[0] == 403
    clock.ahead_s = 31.0
    assert (await get(node, "/pods"))[0] == 200
    kube.allowed.clear()
    clock.ahead_s = 31.0 + 299.0
    assert (await get(node, "/pods"))[0] == 200
    clock.ahead_s = 31.0 + 301.0
    assert (await get(node, "/pods"))[0] == 403


@pytest.mark.parametrize(
    "failure", [KubeAPIError("forbidden", status=403), TransientError("no answer")], ids=["forbidden", "no answer"]
)
async def test_review_that_fails_is_an_error_not_a_no(start_server, get, kube, failure, monkeypatch, caplog):
    monkeypatch.setattr("vkprovider.server.reviews.RETRY_FIRST_S", 0.001)
    node = await start_server()
    kube.failure = failure
    status, text, _ = await get(node, "/pods")
    assert status == 500
    assert text == "Authorization error (user=apiserver, verb=get, resource=nodes, subresource=pods)"
    assert kube.count("subjectaccessreviews") == (1 if isinstance(failure, KubeAPIError) else 5)
    kube.failure = None
    kube.allowed.add(("apiserver", "get", "pods"))
    assert (await get(node, "/pods"))[0] == 200


async def test_head_has_no_verb(start_server, get, kube):
    node = await start_server()
    kube.allowed.add(("apiserver", "get", "healthz"))
    assert (await get(node, "/healthz", method="HEAD"))[0] == 403
