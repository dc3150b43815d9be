"""The object store's cache: how old, how many requests, and what happens without a server."""

from __future__ import annotations

import asyncio

import pytest

from support.fake_kube import FakeKube
from vkprovider.errors import KubeAPIError, NotFoundError, TransientError
from vkprovider.kube.objects import CachedObjectStore

pytestmark = pytest.mark.looptime
PATH = "/api/v1/namespaces/ns/configmaps/settings"


@pytest.fixture
def kube():
    kube = FakeKube()
    kube.put(PATH, {"metadata": {"name": "settings"}, "data": {"a": "1"}})
    return kube


async def test_value_is_read_once_and_again_after_its_time(kube):
    store = CachedObjectStore(kube, ttl_s=3)
    for _ in range(5):
        assert (await store.get_config_map("ns", "settings"))["data"] == {"a": "1"}
    assert len(kube.requests) == 1
    await asyncio.sleep(3.1)
    kube.put(PATH, {"metadata": {"name": "settings"}, "data": {"a": "2"}})
    assert (await store.get_config_map("ns", "settings"))["data"] == {"a": "2"}


async def test_readers_at_the_same_time_share_a_request_and_one_that_gives_up_harms_none(kube):
    kube.delay_s = 5
    store = CachedObjectStore(kube)
    readers = [asyncio.create_task(store.get_config_map("ns", "settings")) for _ in range(10)]
    await asyncio.sleep(1)
    readers[0].cancel()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(result["data"] == {"a": "1"} for result in results[1:])
    assert len(kube.requests) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda store: store.get_config_map("ns", "none"), 'configmap "none" not found'),
        (lambda store: store.get_secret("ns", "none"), 'secret "none" not found'),
        (
            lambda store: store.get_object("v1", "persistentvolumeclaims", "ns", "none"),
            'persistentvolumeclaim "none" not found',
        ),
        (
            lambda store: store.get_object("node.k8s.io/v1", "runtimeclasses", None, "none"),
            'runtimeclass "none" not found',
        ),
        (lambda store: store.create_service_account_token("ns", "none", {}), 'serviceaccount "none" not found'),
    ],
)
async def test_missing_objects_in_the_kubelets_words(kube, call, message):
    kube.fail("POST", "/token", KubeAPIError("no", status=404))
    with pytest.raises(NotFoundError) as caught:
        await call(CachedObjectStore(kube))
    assert caught.value.message == message


async def test_absence_is_believed_for_a_second_only(kube):
    store = CachedObjectStore(kube, negative_ttl_s=1)
    for _ in range(3):
        with pytest.raises(NotFoundError):
            await store.get_secret("ns", "late")
    assert len(kube.requests) == 1
    kube.put("/api/v1/namespaces/ns/secrets/late", {"metadata": {"name": "late"}})
    await asyncio.sleep(1.1)
    assert await store.get_secret("ns", "late")


async def test_failure_is_not_remembered(kube):
    kube.down = True
    store = CachedObjectStore(kube)
    with pytest.raises(TransientError):
        await store.get_config_map("ns", "settings")
    kube.down = False
    assert await store.get_config_map("ns", "settings")


async def test_refusal_is_passing_trouble_for_a_pod(kube):
    kube.fail("GET", "configmaps", KubeAPIError("forbidden", status=403, kube_reason="Forbidden"))
    with pytest.raises(TransientError, match="forbidden"):
        await CachedObjectStore(kube).get_config_map("ns", "settings")


async def test_services_stay_usable_while_the_server_is_away():
    class Services(FakeKube):
        def _answer(self, method, path, params, body, content_type):
            return {"items": [{"metadata": {"name": "web"}}]}

    kube = Services()
    store = CachedObjectStore(kube)
    assert [s["metadata"]["name"] for s in await store.list_services("ns")] == ["web"]
    kube.down = True
    await asyncio.sleep(100)
    assert [s["metadata"]["name"] for s in await store.list_services("ns")] == ["web"]
    with pytest.raises(TransientError):
        await store.list_services("other")


async def test_tokens_are_asked_for_each_time():
    class Tokens(FakeKube):
        def _answer(self, method, path, params, body, content_type):
            assert path == "/api/v1/namespaces/ns/serviceaccounts/default/token"
            assert body["spec"] == {"expirationSeconds": 3600}
            return {"status": {"token": f"t{len(self.requests)}"}}

    store = CachedObjectStore(Tokens())
    tokens = [await store.create_service_account_token("ns", "default", {"expirationSeconds": 3600}) for _ in range(2)]
    assert [token["token"] for token in tokens] == ["t1", "t2"]


async def test_memory_of_old_entries_is_given_back(kube):
    store = CachedObjectStore(kube, ttl_s=1)
    for index in range(50):
        kube.put(f"/api/v1/namespaces/ns/configmaps/c{index}", {"metadata": {"name": f"c{index}"}})
        await store.get_config_map("ns", f"c{index}")
    await asyncio.sleep(60)
    await store.get_config_map("ns", "settings")
    assert len(store._entries) == 1
