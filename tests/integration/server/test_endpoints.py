"""Everything but logs and streams."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from vkprovider.errors import ConfigurationError, TransientError
from vkprovider.provider.pod_provider import ProviderPod
from vkprovider.server import HealthChecks, HealthzServer, effective_configuration
from vkprovider.settings import NodeSettings, ServerSettings, Settings


async def test_pods_are_all_pods_of_the_node(node, get, pods, pod_factory):
    pods.pods = [pod_factory(f"web-{number}") for number in range(120)]
    status, text, headers = await get(node, "/pods")
    listed = json.loads(text)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert (listed["kind"], listed["apiVersion"]) == ("PodList", "v1")
    assert listed["items"] == pods.pods


async def test_running_pods_are_abridged(node, get, provider, pod_factory):
    provider.listed = [ProviderPod(pod_factory("a", "x", "y")), ProviderPod(pod_factory("b"), running=False)]
    status, text, _ = await get(node, "/runningpods/")
    assert status == 200
    assert json.loads(text)["items"] == [
        {
            "metadata": {"name": "a", "namespace": "default", "uid": "uid-a"},
            "spec": {"containers": [{"name": "x", "image": "busybox"}, {"name": "y", "image": "busybox"}]},
            "status": {},
        }
    ]


async def test_errors_of_the_provider_get_their_status(node, get, provider):
    async def fail():
        raise TransientError("the engine does not answer", retry_after_s=7)

    provider.list_pods = fail
    status, text, headers = await get(node, "/runningpods/")
    assert (status, text, headers["Retry-After"]) == (503, "the engine does not answer", "7")


async def test_unforeseen_errors_are_500_and_logged(node, get, provider, caplog):
    async def fail():
        raise ZeroDivisionError("oops")

    provider.list_pods = fail
    status, text, _ = await get(node, "/runningpods/")
    assert (status, text) == (500, "Internal error occurred: oops")
    assert "ZeroDivisionError" in caplog.text


async def test_unknown_path_and_method(node, get):
    assert (await get(node, "/nothing"))[:2] == (404, "404 page not found\n")
    assert (await get(node, "/pods", method="DELETE"))[:2] == (405, "405: Method Not Allowed")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/logs/", "logs endpoint is disabled.\n"),
        ("/logs/..%2F..%2Fetc%2Fpasswd", "logs endpoint is disabled.\n"),
        ("/debug/pprof/heap", "profiling endpoint is disabled.\n"),
    ],
)
async def test_host_files_and_profiles_are_refused(node, get, path, text):
    assert (await get(node, path))[:2] == (405, text)


@pytest.mark.parametrize(
    "path", ["/exec/default/web/app", "/containerLogs/default/web/app", "/run/default/web/app", "/runningpods/"]
)
async def test_debugging_handlers_can_be_switched_off(start_server, get, path):
    node = await start_server({"authorization_mode": "AlwaysAllow", "enable_debugging_handlers": False})
    assert (await get(node, path))[:2] == (405, "Debug endpoints are disabled.\n")
    assert (await get(node, "/pods"))[0] == 200


async def test_configz_shows_the_file_with_what_is_in_force_over_it(start_server, get):
    settings = Settings(
        NodeSettings("node-1", max_pods=50),
        server=ServerSettings(port=1234),
        kubelet_configuration={
            "maxPods": 110,
            "logging": {"format": "json"},
            "authentication": {"x509": {"clientCAFile": "/ca"}},
        },
    )
    node = await start_server({"authorization_mode": "AlwaysAllow"}, configuration=effective_configuration(settings))
    status, text, _ = await get(node, "/configz")
    shown = json.loads(text)["kubeletconfig"]
    assert status == 200
    assert shown["kind"] == "KubeletConfiguration"
    assert shown["maxPods"] == 50
    assert shown["port"] == 1234
    assert shown["logging"] == {"format": "json"}
    assert shown["authentication"]["webhook"] == {"enabled": True, "cacheTTL": "2m0s"}
    assert shown["authorization"]["webhook"]["cacheUnauthorizedTTL"] == "30s"


async def test_requests_are_reported_for_metrics(start_server, get):
    seen = []
    node = await start_server(
        {"authorization_mode": "AlwaysAllow"}, observe_request=lambda **figures: seen.append(figures)
    )
    await get(node, "/pods")
    await get(node, "/metrics/cadvisor")
    await get(node, "/whatever/1")
    assert [(entry["path"], entry["status"]) for entry in seen] == [
        ("pods", 200),
        ("metrics/cadvisor", 200),
        ("other", 404),
    ]
    assert all(entry["method"] == "GET" and 0 <= entry["duration_s"] < 10 for entry in seen)


async def test_health_lists_its_checks(start_server, get):
    def broken():
        raise RuntimeError("stuck")

    async def fine():
        return None

    checks = HealthChecks({"log": fine, "syncloop": broken})
    node = await start_server({"authorization_mode": "AlwaysAllow"}, checks=checks)
    assert (await get(node, "/healthz"))[:2] == (
        500,
        "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n",
    )
    assert (await get(node, "/healthz/log"))[:2] == (200, "ok")
    assert (await get(node, "/healthz/syncloop"))[:2] == (500, "internal server error: stuck\n")
    assert (await get(node, "/healthz/nothing"))[0] == 404
    assert (await get(node, "/healthz?exclude=syncloop"))[:2] == (200, "ok")
    assert (await get(node, "/healthz?verbose&exclude=syncloop&exclude=x"))[:2] == (
        200,
        "[+]ping ok\n[+]log ok\n[+]syncloop excluded: ok\n"
        'warn: some health checks cannot be excluded: no matches for "x"\nhealthz check passed\n',
    )


async def test_health_endpoint_needs_no_credentials_and_has_nothing_else(session):
    ready = False

    def is_ready():
        if not ready:
            raise RuntimeError("starting")

    server = HealthzServer("127.0.0.1", 0, HealthChecks(), ready=HealthChecks({"node": is_ready}))
    await server.start()
    try:
        base = f"http://127.0.0.1:{server.port}"
        async with session.get(base + "/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok")
        async with session.get(base + "/readyz") as response:
            assert response.status == 500
            assert "[-]node failed" in await response.text()
        ready = True
        async with session.get(base + "/readyz") as response:
            assert response.status == 200
        async with session.get(base + "/pods") as response:
            assert response.status == 404
    finally:
        await server.aclose()


async def test_taken_port_is_a_clear_error(start_server, node):
    with pytest.raises(ConfigurationError, match=rf"cannot listen on 127.0.0.1:{node.port}.*--listen"):
        await start_server({"port": node.port})
    other = HealthzServer("127.0.0.1", node.port, HealthChecks())
    with pytest.raises(ConfigurationError, match="--healthz-listen"):
        await other.start()


async def test_missing_ca_file_is_a_clear_error(start_server):
    with pytest.raises(ConfigurationError, match=r"client CA file /no/such/ca cannot be read.*--client-ca-file"):
        await start_server({"client_ca_file": Path("/no/such/ca")})


async def test_wrong_settings_are_clear_errors(start_server):
    with pytest.raises(ConfigurationError, match="Webhook or AlwaysAllow"):
        await start_server({"authorization_mode": "RBAC"})
    with pytest.raises(ConfigurationError, match="API client"):
        await start_server({"webhook_authentication": False}, client=None)
    with pytest.raises(ConfigurationError, match="together"):
        await start_server({"tls_cert_file": Path("/x")})


async def test_client_that_says_nothing_does_not_hold_up_others_or_the_end(start_server, get):
    node = await start_server({"authorization_mode": "AlwaysAllow"})
    half_open = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(5)]
    idle = [await asyncio.open_connection("127.0.0.1", node.port, ssl=node.tls) for _ in range(5)]
    assert (await get(node, "/healthz"))[0] == 200
    async with asyncio.timeout(5):
        await node.server.aclose()
    for _, writer in half_open + idle:
        writer.close()


async def test_oversized_header_is_refused(node):
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.tls)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: node\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"400"
    writer.close()


async def test_garbage_is_refused(node):
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.tls)
    writer.write(b"\x00\x01\x02 nonsense\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"400"
    writer.close()
