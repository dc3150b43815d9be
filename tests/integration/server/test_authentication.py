"""Who gets in."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from datetime import timedelta

import aiohttp
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from vkprovider.errors import KubeAPIError


async def test_without_credentials_it_is_unauthorized(node, get, make_client_tls):
    status, text, headers = await get(node, "/pods", tls=make_client_tls())
    assert (status, text) == (401, "Unauthorized")
    assert "Server" not in headers


async def test_unknown_paths_are_not_told_to_strangers(node, get, make_client_tls):
    status, text, _ = await get(node, "/no/such/path", tls=make_client_tls())
    assert (status, text) == (401, "Unauthorized")


async def test_certificate_of_the_client_ca_gets_in(node, get):
    status, text, _ = await get(node, "/healthz")
    assert (status, text) == (200, "ok")


async def test_certificate_of_another_ca_fails_the_handshake(node, session, make_authority, make_client_tls):
    tls = make_client_tls(make_authority("other").issue("apiserver", "system:masters"))
    with pytest.raises(aiohttp.ClientError):
        await session.get(node.url("/pods"), ssl=tls)


@pytest.mark.parametrize(
    "lifetime",
    [
        pytest.param({"begins": timedelta(days=-2), "ends": timedelta(seconds=-5)}, id="expired"),
        pytest.param({"begins": timedelta(hours=1), "ends": timedelta(hours=2)}, id="not yet valid"),
        pytest.param({"usage": ExtendedKeyUsageOID.SERVER_AUTH}, id="for servers"),
    ],
)
async def test_unfit_certificate_fails_the_handshake(node, session, authority, make_client_tls, lifetime):
    tls = make_client_tls(authority.issue("apiserver", "system:masters", **lifetime))
    with pytest.raises(aiohttp.ClientError):
        await session.get(node.url("/pods"), ssl=tls)


async def test_certificate_that_expires_on_an_open_connection_is_refused(start_server, get, clock):
    node = await start_server({"authorization_mode": "AlwaysAllow"}, clock=clock)
    assert (await get(node, "/healthz"))[0] == 200
    clock.ahead_s = 2 * 86400
    status, text, _ = await get(node, "/healthz")
    assert (status, text) == (401, "Unauthorized")


async def test_certificate_without_common_name_is_nobody(node, get, authority, make_client_tls):
    status, _, _ = await get(node, "/healthz", tls=make_client_tls(authority.issue("", "system:masters")))
    assert status == 401


async def test_changed_ca_file_counts_for_new_and_for_open_connections(
    start_server, get, authority, make_authority, make_client_tls, monkeypatch
):
    monkeypatch.setattr("vkprovider.server.client_ca.ClientCAFile.period_s", 0.01)
    node = await start_server({"authorization_mode": "AlwaysAllow"})
    assert (await get(node, "/healthz"))[0] == 200
    other = make_authority("next")
    authority.path.write_text(other.pem)
    tls = make_client_tls(other.issue("apiserver"))
    async with asyncio.timeout(10):
        while True:
            try:
                if (await get(node, "/healthz", tls=tls))[0] == 200:
                    break
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)
    # The session still holds the connection of the old CA's client.
    status, text, _ = await get(node, "/healthz")
    assert (status, text) == (401, "Unauthorized")


async def test_ca_added_to_the_bundle_keeps_open_connections(start_server, get, authority, make_authority, monkeypatch):
    monkeypatch.setattr("vkprovider.server.client_ca.ClientCAFile.period_s", 0.01)
    node = await start_server({"authorization_mode": "AlwaysAllow"})
    assert (await get(node, "/healthz"))[0] == 200
    before = node.server._client_ca.bundle
    authority.path.write_text(make_authority("next").pem + authority.pem)
    async with asyncio.timeout(10):
        while node.server._client_ca.bundle is before:
            await asyncio.sleep(0.01)
    assert (await get(node, "/healthz"))[0] == 200


async def test_broken_ca_file_leaves_the_last_one_in_force(start_server, get, authority, monkeypatch, caplog):
    monkeypatch.setattr("vkprovider.server.client_ca.ClientCAFile.period_s", 0.01)
    node = await start_server({"authorization_mode": "AlwaysAllow"})
    authority.path.write_text("no certificate")
    async with asyncio.timeout(10):
        while "stays in force" not in caplog.text:
            await asyncio.sleep(0.01)
    assert (await get(node, "/healthz"))[0] == 200


async def test_client_ca_is_followed_in_the_config_map(start_server, get, kube, authority, monkeypatch, caplog):
    monkeypatch.setattr("vkprovider.server.client_ca.FIRST_RETRY_S", 0.01)
    kube.failure = KubeAPIError("configmaps is forbidden", status=403, kube_reason="Forbidden")
    node = await start_server({"authorization_mode": "AlwaysAllow", "client_ca_file": None})
    status, _, _ = await get(node, "/healthz")
    assert status == 401
    assert "extension-apiserver-authentication-reader" in caplog.text
    assert "--client-ca-file" in caplog.text
    kube.failure, kube.client_ca = None, authority.pem
    async with asyncio.timeout(10):
        while node.server._client_ca.bundle is None:
            await asyncio.sleep(0.01)
    async with aiohttp.ClientSession() as fresh, fresh.get(node.url("/healthz"), ssl=node.tls) as response:
        assert response.status == 200
    assert caplog.text.count("extension-apiserver-authentication-reader") == 1


async def test_reviewed_token_gets_in_and_is_remembered(start_server, get, kube, make_client_tls, clock):
    node = await start_server({"authorization_mode": "AlwaysAllow"}, clock=clock)
    kube.tokens["good"] = {"username": "prometheus", "groups": ["monitoring"]}
    tls, headers = make_client_tls(), {"Authorization": "Bearer good"}
    for _ in range(3):
        assert (await get(node, "/healthz", tls=tls, headers=headers))[0] == 200
    assert kube.count("tokenreviews") == 1
    clock.ahead_s = 121.0
    assert (await get(node, "/healthz", tls=tls, headers=headers))[0] == 200
    assert kube.count("tokenreviews") == 2


async def test_token_in_a_websocket_protocol_gets_in(node, get, kube, make_client_tls):
    kube.tokens["good"] = {"username": "prometheus"}
    headers = {"Sec-WebSocket-Protocol": "base64url.bearer.authorization.k8s.io.Z29vZA, v4.channel.k8s.io"}
    assert (await get(node, "/healthz", tls=make_client_tls(), headers=headers))[0] == 200


async def test_invalid_token_is_refused_and_remembered(node, get, kube, make_client_tls):
    tls, headers = make_client_tls(), {"Authorization": "Bearer bad"}
    for _ in range(2):
        status, text, _ = await get(node, "/healthz", tls=tls, headers=headers)
        assert (status, text) == (401, "Unauthorized")
    assert kube.count("tokenreviews") == 1


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic Z29vZA==", "good", "Bearer  "])
async def test_header_without_a_token_is_nobody(node, get, kube, make_client_tls, header):
    status, _, _ = await get(node, "/healthz", tls=make_client_tls(), headers={"Authorization": header})
    assert status == 401
    assert kube.count("tokenreviews") == 0


async def test_one_review_serves_all_who_ask_at_once(node, get, kube, make_client_tls):
    kube.tokens["good"] = {"username": "prometheus"}
    answers = await asyncio.gather(
        *(get(node, "/healthz", tls=make_client_tls(), headers={"Authorization": "Bearer good"}) for _ in range(8))
    )
    assert {status for status, _, _ in answers} == {200}
    assert kube.count("tokenreviews") == 1


async def test_missing_right_to_review_is_named_once(node, get, kube, make_client_tls, caplog):
    kube.failure = KubeAPIError("tokenreviews is forbidden", status=403, kube_reason="Forbidden")
    for _ in range(2):
        status, text, _ = await get(node, "/healthz", tls=make_client_tls(), headers={"Authorization": "Bearer good"})
        assert (status, text) == (401, "Unauthorized")
    assert caplog.text.count("system:auth-delegator") == 1
    assert kube.count("tokenreviews") == 2


async def test_anonymous_gets_in_only_if_asked_for(start_server, get, kube, make_client_tls):
    node = await start_server({"anonymous": True})
    kube.allowed.add(("system:anonymous", "get", "healthz"))
    assert (await get(node, "/healthz", tls=make_client_tls()))[0] == 200
    groups = [body["spec"]["groups"] for _, path, body in kube.requests if path.endswith("subjectaccessreviews")]
    assert groups == [["system:unauthenticated"]]


async def test_anonymous_is_no_way_out_for_a_bad_token(start_server, get, make_client_tls):
    node = await start_server({"anonymous": True, "authorization_mode": "AlwaysAllow"})
    status, _, _ = await get(node, "/healthz", tls=make_client_tls(), headers={"Authorization": "Bearer bad"})
    assert status == 401


async def test_old_tls_is_refused(node, make_client_tls):
    context = make_client_tls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", node.port, ssl=context)
