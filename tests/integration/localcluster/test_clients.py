"""kopf and the official asyncio client against the local cluster."""

from __future__ import annotations

import asyncio

import kopf
from kubernetes import aio
from kubernetes.aio import client as api
from kubernetes.aio import config, watch

PODS = "/api/v1/namespaces/default/pods"


async def test_kopf_watches_raw_events(cluster, client, pod):
    registry = kopf.OperatorRegistry()
    seen: list[tuple[str | None, str]] = []
    arrived = asyncio.Event()

    @kopf.on.event("v1", "pods", registry=registry)
    async def note(type, name, **_):
        seen.append((type, name))
        if (type, name) == ("DELETED", "p"):
            arrived.set()

    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    ready, stop = asyncio.Event(), asyncio.Event()

    @kopf.on.login(registry=registry)
    async def login(**_):
        return kopf.ConnectionInfo(
            server=cluster.url,
            ca_path=str(cluster.ca_path),
            certificate_path=str(cluster.directory / "pki" / "admin.crt"),
            private_key_path=str(cluster.directory / "pki" / "admin.key"),
        )

    operator = asyncio.create_task(
        kopf.operator(
            registry=registry, settings=settings, standalone=True, clusterwide=True, ready_flag=ready, stop_flag=stop
        )
    )
    try:
        async with asyncio.timeout(20):
            await ready.wait()
            await client.ok("POST", PODS, pod("p"))
            while not any(name == "p" for _, name in seen):
                await asyncio.sleep(0.02)
            await client.ok("DELETE", f"{PODS}/p")
            await arrived.wait()
    finally:
        stop.set()
        await asyncio.wait({operator}, timeout=10)
        operator.cancel()
        await asyncio.gather(operator, return_exceptions=True)
    kinds = [kind for kind, name in seen if name == "p"]
    assert kinds[-1] == "DELETED"
    assert set(kinds[:-1]) <= {"ADDED", "MODIFIED", None}


async def test_official_client_reads_writes_and_watches(cluster):
    configuration = api.Configuration()
    await config.load_kube_config(str(cluster.kubeconfig_path), client_configuration=configuration)
    async with aio.client.ApiClient(configuration) as connection:
        core = api.CoreV1Api(connection)
        body = api.V1Pod(
            metadata=api.V1ObjectMeta(name="p"),
            spec=api.V1PodSpec(node_name="n", containers=[api.V1Container(name="c", image="busybox:1")]),
        )
        created = await core.create_namespaced_pod("default", body)
        assert created.spec.restart_policy == "Always"
        pods = await core.list_namespaced_pod("default", field_selector="spec.nodeName=n")
        assert [item.metadata.name for item in pods.items] == ["p"]
        status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        patched = await core.patch_namespaced_pod_status("p", "default", status)
        assert patched.status.phase == "Running"
        watcher = watch.Watch()
        kinds = []
        async with asyncio.timeout(10):
            async for event in watcher.stream(
                core.list_namespaced_pod, "default", resource_version=created.metadata.resource_version
            ):
                kinds.append((event["type"], event["object"].status.phase))
                if len(kinds) == 1:
                    await core.delete_namespaced_pod("p", "default", grace_period_seconds=0)
                if event["type"] == "DELETED":
                    break
        await watcher.close()
        assert kinds[0] == ("MODIFIED", "Running")
        assert kinds[-1][0] == "DELETED"
        nodes = await core.list_node()
        assert nodes.items == []
