"""Rate limit, list of pods in pages, reviews, and the cluster's identity."""

from __future__ import annotations

import asyncio

import pytest

from support.fake_kube import FakeKube
from vkprovider.errors import KubeAPIError
from vkprovider.kube.client import RateLimiter
from vkprovider.kube.cluster import get_cluster_uid
from vkprovider.kube.pods import PodClient
from vkprovider.kube.reviews import ResourceAttributes, ReviewClient, UserInfo


class Scripted(FakeKube):
    """Answers by a function of the request."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def _answer(self, method, path, params, body, content_type):
        return self.answer(method, path, dict(params), body)


@pytest.mark.looptime
async def test_rate_limit_lets_a_burst_through_and_then_keeps_the_pace():
    limiter = RateLimiter(10, 5)
    loop = asyncio.get_running_loop()
    for _ in range(5):
        await limiter.acquire()
    assert loop.time() == 0
    for _ in range(20):
        await limiter.acquire()
    assert loop.time() == pytest.approx(2.0)
    await asyncio.sleep(10)
    start = loop.time()
    await asyncio.gather(*(limiter.acquire() for _ in range(15)))
    assert loop.time() - start == pytest.approx(1.0)


def pods(*names):
    return [{"metadata": {"name": name, "uid": name, "managedFields": [{}]}} for name in names]


async def test_all_pages_are_read_and_managed_fields_dropped():
    pages = {None: ("t1", pods("a", "b")), "t1": ("t2", pods("c")), "t2": (None, pods("d"))}

    def answer(method, path, params, body):
        assert params["fieldSelector"] == "spec.nodeName=n1"
        assert "resourceVersion" not in params
        token, items = pages[params.get("continue")]
        return {"items": items, "metadata": {"resourceVersion": "7", **({"continue": token} if token else {})}}

    listed = await PodClient(Scripted(answer)).list_on_node("n1")
    assert [pod["metadata"] for pod in listed.items] == [{"name": n, "uid": n} for n in "abcd"]
    assert listed.resource_version == "7"


async def test_expired_page_makes_the_list_begin_anew_in_one_piece():
    def answer(method, path, params, body):
        if "continue" in params:
            raise KubeAPIError("expired", status=410, kube_reason="Expired")
        if "limit" in params:
            return {"items": pods("stale"), "metadata": {"resourceVersion": "7", "continue": "t"}}
        return {"items": pods("a", "b"), "metadata": {"resourceVersion": "8"}}

    listed = await PodClient(Scripted(answer)).list_on_node("n1")
    assert [pod["metadata"]["name"] for pod in listed.items] == ["a", "b"]


@pytest.mark.parametrize("status", [404, 409])
async def test_deleting_what_is_gone_or_new_is_success(status):
    def answer(method, path, params, body):
        raise KubeAPIError("no", status=status, kube_reason="Conflict")

    await PodClient(Scripted(answer)).delete("ns", "pod", "uid")


async def test_token_review():
    def answer(method, path, params, body):
        assert path == "/apis/authentication.k8s.io/v1/tokenreviews"
        good = body["spec"] == {"token": "good", "audiences": ["x"]}
        user = {"username": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}}
        return {"status": {"authenticated": True, "user": user} if good else {"error": "bad"}}

    reviews = ReviewClient(Scripted(answer))
    assert await reviews.review_token("good", audiences=["x"]) == UserInfo("u", "1", ("g",), {"k": ["v"]})
    assert await reviews.review_token("bad") is None


async def test_access_reviews():
    def answer(method, path, params, body):
        spec = body["spec"]
        assert spec["resourceAttributes"] == {"verb": "get", "resource": "nodes", "subresource": "log", "version": "v1"}
        if path.endswith("selfsubjectaccessreviews"):
            return {"status": {"allowed": True, "denied": True}}
        assert path.endswith("/subjectaccessreviews")
        return {"status": {"allowed": spec["user"] == "admin", "reason": "because"}}

    reviews = ReviewClient(Scripted(answer))
    wanted = ResourceAttributes("get", "nodes", subresource="log")
    assert await reviews.review_access(UserInfo("admin"), wanted) == (True, "because")
    assert await reviews.review_access(UserInfo("other"), wanted) == (False, "because")
    assert await reviews.review_own_access(wanted) == (False, "")


class TestClusterIdentity:
    def client(self, answer, ca_file):
        kube = Scripted(answer)
        kube.credentials = type("C", (), {"ca_file": ca_file, "server": "https://s"})()
        return kube

    async def test_it_is_the_uid_of_kube_system(self):
        kube = self.client(lambda *_: {"metadata": {"uid": "the-uid"}}, None)
        assert await get_cluster_uid(kube) == "the-uid"

    async def test_node_identity_that_may_not_read_it_gets_a_stable_stand_in(self, tmp_path):
        def refuse(*_):
            raise KubeAPIError("no", status=403)

        ca = tmp_path / "ca.crt"
        ca.write_text("certificate")
        uids = [await get_cluster_uid(self.client(refuse, str(ca))) for _ in range(2)]
        assert uids[0] == uids[1]
        ca.write_text("another")
        assert await get_cluster_uid(self.client(refuse, str(ca))) != uids[0]
        assert await get_cluster_uid(self.client(refuse, None))
