"""The API over HTTP: watches, pages, credentials, restarts."""

from __future__ import annotations

import asyncio
import io
import json
import ssl

import aiohttp
import pytest

from vkprovider.errors import ConfigurationError
from vkprovider.localcluster import LocalCluster

PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"
MERGE = "application/merge-patch+json"


async def collect(stream, count, timeout=10.0):
    events = []
    async with asyncio.timeout(timeout):
        async for event in stream:
            events.append((event["type"], event["object"]["metadata"].get("name")))
            if len(events) == count:
                break
    await stream.aclose()
    return events


def config_map(name, **labels):
    return {"metadata": {"name": name, "labels": labels}}


async def test_watch_from_a_list_sees_every_change_once(client):
    await client.ok("POST", MAPS, config_map("before"))
    listed = await client.ok("GET", MAPS)
    assert listed["kind"] == "ConfigMapList"
    assert "kind" not in listed["items"][0]
    stream = client.watch(MAPS, resourceVersion=listed["metadata"]["resourceVersion"])
    await client.ok("POST", MAPS, config_map("a"))
    await client.ok("PATCH", f"{MAPS}/a", {"data": {"x": "y"}}, kind=MERGE)
    await client.ok("DELETE", f"{MAPS}/a")
    assert await collect(stream, 3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_watch_without_a_version_starts_with_what_is_there(client):
    await client.ok("POST", MAPS, config_map("a"))
    assert ("ADDED", "a") in await collect(client.watch(MAPS), 2)


async def test_selector_transitions(client):
    version = (await client.ok("GET", MAPS))["metadata"]["resourceVersion"]
    stream = client.watch(MAPS, resourceVersion=version, labelSelector="app=web")
    await client.ok("POST", MAPS, config_map("a"))
    await client.ok("PATCH", f"{MAPS}/a", {"metadata": {"labels": {"app": "web"}}}, kind=MERGE)
    await client.ok("PATCH", f"{MAPS}/a", {"data": {"x": "y"}}, kind=MERGE)
    await client.ok("PATCH", f"{MAPS}/a", {"metadata": {"labels": {"app": "db"}}}, kind=MERGE)
    await client.ok("PATCH", f"{MAPS}/a", {"data": {"x": "z"}}, kind=MERGE)
    await client.ok("PATCH", f"{MAPS}/a", {"metadata": {"labels": {"app": "web"}}}, kind=MERGE)
    await client.ok("DELETE", f"{MAPS}/a")
    kinds = [kind for kind, _ in await collect(stream, 5)]
    assert kinds == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]


async def test_watch_by_node_sees_a_pod_once_it_is_bound(client, pod):
    stream = client.watch("/api/v1/pods", fieldSelector="spec.nodeName=n1", resourceVersion="0")
    await client.ok("POST", PODS, pod("p", schedulerName="mine"))
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    await client.ok("POST", f"{PODS}/p/binding", binding)
    assert await collect(stream, 1) == [("ADDED", "p")]
    code, answer = await client.call("POST", f"{PODS}/p/binding", binding)
    assert (code, answer["reason"]) == (409, "Conflict")
    assert 'already assigned to node "n1"' in answer["message"]


async def test_too_old_and_future_versions_are_410_events(cluster, client, monkeypatch):
    from vkprovider.localcluster import store

    monkeypatch.setattr(store, "HISTORY_EVENTS", 2)
    version = (await client.ok("POST", MAPS, config_map("a")))["metadata"]["resourceVersion"]
    for index in range(4):
        await client.ok("PATCH", f"{MAPS}/a", {"data": {"x": str(index)}}, kind=MERGE)
    for asked in (version, "999999"):
        events = [event async for event in client.watch(MAPS, resourceVersion=asked)]
        assert [(e["type"], e["object"]["code"], e["object"]["reason"]) for e in events] == [("ERROR", 410, "Expired")]


async def test_initial_events_end_with_a_bookmark(client):
    await client.ok("POST", MAPS, config_map("a"))
    options = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
        "fieldSelector": "metadata.name=a",
    }
    stream = client.watch(MAPS, **options)
    first = await anext(stream)
    mark = await anext(stream)
    await stream.aclose()
    assert first["type"] == "ADDED"
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    code, answer = await client.call("GET", MAPS, params={"watch": "1", "sendInitialEvents": "true"})
    assert (code, answer["reason"]) == (422, "Invalid")


async def test_a_watch_ends_at_its_timeout(client):
    events = [e async for e in client.watch(MAPS, timeoutSeconds="1", allowWatchBookmarks="true", resourceVersion="2")]
    assert events[-1]["type"] == "BOOKMARK"


async def test_watch_as_table_names_its_columns_once(client):
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    await client.ok("POST", MAPS, config_map("a"))
    rows = []
    async with client.session.get(client.url + MAPS, params={"watch": "1"}, headers=headers) as response:
        async for line in response.content:
            rows.append(json.loads(line)["object"])
            if len(rows) == 2:
                break
    assert [bool(row["columnDefinitions"]) for row in rows] == [True, False]


async def test_pages_are_of_one_moment(client):
    for index in range(5):
        await client.ok("POST", MAPS, config_map(f"m{index}"))
    first = await client.ok("GET", MAPS, params={"limit": "2", "labelSelector": "!none"})
    await client.ok("POST", MAPS, config_map("m0a"))
    await client.ok("DELETE", f"{MAPS}/m3")
    names = [item["metadata"]["name"] for item in first["items"]]
    token = first["metadata"]["continue"]
    while token:
        page = await client.ok("GET", MAPS, params={"limit": "2", "continue": token, "labelSelector": "!none"})
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
    assert names == ["kube-root-ca.crt", "m0", "m1", "m2", "m3", "m4"]
    code, answer = await client.call("GET", MAPS, params={"continue": "nonsense"})
    assert (code, answer["message"]) == (400, "continue key is not valid")


async def test_delete_collection_by_selector(client):
    for name, app in (("a", "x"), ("b", "x"), ("c", "y")):
        await client.ok("POST", MAPS, config_map(name, app=app))
    deleted = await client.ok("DELETE", MAPS, params={"labelSelector": "app=x"})
    assert [item["metadata"]["name"] for item in deleted["items"]] == ["a", "b"]
    left = await client.ok("GET", MAPS, params={"labelSelector": "app"})
    assert [item["metadata"]["name"] for item in left["items"]] == ["c"]


async def test_events_are_one_thing_in_two_versions(client):
    about = {"kind": "Pod", "name": "p", "namespace": "default"}
    event = {"metadata": {"name": "e"}, "involvedObject": about, "reason": "R", "message": "m", "type": "Normal"}
    await client.ok("POST", "/api/v1/namespaces/default/events", event)
    new = await client.ok("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e")
    assert (new["note"], new["regarding"]["name"], new["apiVersion"]) == ("m", "p", "events.k8s.io/v1")
    created = {
        "metadata": {"name": "f"},
        "regarding": about,
        "reason": "S",
        "note": "n",
        "type": "Normal",
        "action": "A",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/x",
        "reportingInstance": "i",
    }
    await client.ok("POST", "/apis/events.k8s.io/v1/namespaces/default/events", created)
    core = await client.ok("GET", "/api/v1/namespaces/default/events/f")
    assert (core["message"], core["involvedObject"]["name"], core["reportingComponent"]) == ("n", "p", "example.com/x")
    found = await client.ok("GET", "/api/v1/events", params={"fieldSelector": "involvedObject.name=p,reason=S"})
    assert len(found["items"]) == 1


async def test_scale_and_eviction(client, pod):
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    base = "/apis/apps/v1/namespaces/default/replicasets"
    await client.ok("POST", base, {"metadata": {"name": "r"}, "spec": spec})
    scale = await client.ok("PATCH", f"{base}/r/scale", {"spec": {"replicas": 7}}, kind=MERGE)
    assert (scale["kind"], scale["spec"]["replicas"], scale["status"]["selector"]) == ("Scale", 7, "a=b")
    found = await client.ok("GET", f"{base}/r")
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (7, 2)

    guarded = pod("g", nodeName="n")
    guarded["metadata"]["labels"] = {"a": "b"}
    await client.ok("POST", PODS, guarded)
    running = {"status": {"phase": "Running"}}
    await client.ok("PATCH", f"{PODS}/g/status", running, kind=MERGE)
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    budget = {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}
    await client.ok("POST", budgets, budget)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "g"}}
    code, answer = await client.call("POST", f"{PODS}/g/eviction", eviction)
    assert (code, answer["reason"]) == (429, "TooManyRequests")
    assert answer["details"]["causes"][0]["reason"] == "DisruptionBudget"
    await client.ok("PATCH", f"{budgets}/b/status", {"status": {"disruptionsAllowed": 1}}, kind=MERGE)
    await client.ok("POST", f"{PODS}/g/eviction", eviction)
    evicted = await client.ok("GET", f"{PODS}/g")
    assert evicted["metadata"]["deletionGracePeriodSeconds"] == 30
    assert [c["reason"] for c in evicted["status"]["conditions"]] == ["EvictionByEvictionAPI"]
    assert (await client.ok("GET", f"{budgets}/b"))["status"]["disruptionsAllowed"] == 0


async def test_resize_and_ephemeral_containers(client, pod):
    resources = {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}
    await client.ok("POST", PODS, pod("p", containers=[{"name": "c", "image": "x", "resources": resources}]))
    strategic = "application/strategic-merge-patch+json"
    change = {"spec": {"containers": [{"name": "c", "image": "ignored", "resources": {"requests": {"cpu": "500m"}}}]}}
    resized = await client.ok("PATCH", f"{PODS}/p/resize", change, kind=strategic)
    assert resized["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "500m"}, "limits": {"cpu": "2"}}
    assert resized["spec"]["containers"][0]["image"] == "x"
    assert resized["metadata"]["generation"] == 2
    debug = {"spec": {"ephemeralContainers": [{"name": "dbg", "image": "y"}]}}
    found = await client.ok("PATCH", f"{PODS}/p/ephemeralcontainers", debug, kind=strategic)
    assert found["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"] == "File"
    debug["spec"]["ephemeralContainers"][0]["image"] = "z"
    code, answer = await client.call("PATCH", f"{PODS}/p/ephemeralcontainers", debug, kind=strategic)
    assert (code, answer["reason"]) == (422, "Invalid")


async def test_token_request_is_bound_and_reviewed(client, pod):
    created = await client.ok("POST", PODS, pod("p"))
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": created["metadata"]["uid"]}
    path = "/api/v1/namespaces/default/serviceaccounts/default/token"
    request = {"spec": {"audiences": ["vault"], "expirationSeconds": 600, "boundObjectRef": reference}}
    token = (await client.ok("POST", path, request))["status"]["token"]

    async def review(audiences):
        body = {"spec": {"token": token, "audiences": audiences}}
        return (await client.ok("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body))["status"]

    found = await review(["vault"])
    assert found["authenticated"]
    assert found["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    assert "authenticated" not in await review(["other"])
    request["spec"]["boundObjectRef"] = {**reference, "uid": "other"}
    assert (await client.call("POST", path, request))[0] == 409
    await client.ok("DELETE", f"{PODS}/p")
    assert "authenticated" not in await review(["vault"])


async def test_credentials_are_needed_but_for_health_and_version(cluster, make_client):
    context = ssl.create_default_context(cafile=str(cluster.ca_path))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        for path, code in (
            ("/healthz", 200),
            ("/readyz", 200),
            ("/version", 200),
            ("/api", 401),
            ("/api/v1/pods", 401),
        ):
            async with session.get(cluster.url + path) as response:
                assert response.status == code, path
        async with session.get(cluster.url + "/api", headers={"Authorization": "Bearer nope"}) as response:
            assert (response.status, (await response.json())["reason"]) == (401, "Unauthorized")


async def test_node_kubeconfig_names_the_node(cluster, make_client, tmp_path):
    path = await cluster.write_node_kubeconfig(tmp_path / "node.kubeconfig", "n1")
    node = await make_client(path)
    answer = await node.ok("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert answer["status"]["userInfo"]["username"] == "system:node:n1"
    assert "system:nodes" in answer["status"]["userInfo"]["groups"]


async def test_malformed_requests_are_answered(client):
    for body, kind, code in (
        ("{nope", "application/json", 400),
        ("", "application/json", 400),
        ("[]", "application/json", 400),
        ("a: [", "application/yaml", 400),
        ("x", "text/csv", 415),
        (b"k8s\x00\xff\xff", "application/vnd.kubernetes.protobuf", 400),
    ):
        answer = await client.call("POST", MAPS, body, kind=kind)
        assert (answer[0], answer[1]["kind"]) == (code, "Status"), body
    assert (await client.call("PATCH", f"{MAPS}/x", {}, kind="application/json"))[0] == 415
    assert (await client.call("GET", MAPS, headers={"Accept": "application/xml"}))[0] == 406
    assert (await client.call("GET", "/api/v1/nothing"))[0] == 404
    assert (await client.call("POST", "/api/v1/pods", {}))[0] == 405
    assert (await client.call("POST", MAPS, io.BytesIO(b"x" * (3 * 1024 * 1024 + 1))))[0] == 413


async def test_state_survives_a_restart(tmp_path, make_client):
    directory, state = tmp_path / "cluster", tmp_path / "state.db"
    async with LocalCluster(directory, state_file=state) as first:
        client = await make_client(first.kubeconfig_path)
        created = await client.ok("POST", MAPS, {**config_map("keep"), "data": {"a": "b"}})
        await client.ok("POST", MAPS, config_map("drop"))
        await client.ok("DELETE", f"{MAPS}/drop")
        token = await client.ok("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", {"spec": {}})
        port = int(first.url.rpartition(":")[2])
    async with LocalCluster(directory, state_file=state, port=port) as second:
        client = await make_client(second.kubeconfig_path)
        found = await client.ok("GET", f"{MAPS}/keep")
        assert found == created
        assert (await client.call("GET", f"{MAPS}/drop"))[0] == 404
        other = await make_client(second.kubeconfig_path, token=token["status"]["token"])
        await other.ok("GET", f"{MAPS}/keep")
        events = [e async for e in client.watch(MAPS, resourceVersion=created["metadata"]["resourceVersion"])]
        assert events[0]["object"]["code"] == 410
        await client.ok("DELETE", f"{MAPS}/keep")


async def test_a_taken_port_is_a_clear_error(cluster, tmp_path):
    port = int(cluster.url.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
        await LocalCluster(tmp_path / "other", port=port).start()


async def test_stop_ends_open_watches_and_can_be_repeated(tmp_path, make_client):
    cluster = LocalCluster(tmp_path / "cluster")
    await cluster.start()
    client = await make_client(cluster.kubeconfig_path)
    stream = client.watch(MAPS)
    await anext(stream)
    async with asyncio.timeout(5):
        await cluster.stop()
        with pytest.raises((StopAsyncIteration, aiohttp.ClientError)):
            await anext(stream)
    await cluster.stop()


async def test_without_a_directory_nothing_stays():
    async with LocalCluster() as cluster:
        directory = cluster.directory
        assert cluster.kubeconfig_path.exists()
    assert not directory.exists()
