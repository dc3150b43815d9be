"""The fakes of the kit: clock, object store, contexts."""

import inspect
from datetime import UTC, datetime, timedelta

import pytest

import vkprovider.testing
from vkprovider.errors import NotFoundError, TransientError
from vkprovider.resolve.objects import ObjectStore
from vkprovider.testing import FakeClock, FakeObjectStore, Recording, make_node_context, make_pod_context
from vkprovider.testing.objects import decode_secret


def test_everything_exported_exists():
    for name in vkprovider.testing.__all__:
        assert getattr(vkprovider.testing, name).__doc__


def test_clock_moves_only_when_told():
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC), monotonic=5)
    assert clock.now() == clock.now()
    clock.advance(1.5)
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert clock.monotonic() == 6.5
    with pytest.raises(ValueError, match="use set_wall_time"):
        clock.advance(-1)
    clock.set_wall_time(datetime(2025, 1, 1, tzinfo=UTC))
    assert (clock.now().year, clock.monotonic()) == (2025, 6.5)


def test_store_has_the_protocols_methods():
    for name, method in inspect.getmembers(ObjectStore, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(method) == inspect.signature(getattr(FakeObjectStore, name)), name


async def test_store_gives_what_was_put_in():
    store = FakeObjectStore()
    store.add_config_map("c", {"k": "v"}, binary_data={"b": b"\xff"}, immutable=True)
    store.add_secret("s", {"k": "v", "b": b"\xff"}, namespace="other")
    store.add_service("web", ports=[80, 443])
    store.add_object("v1", "persistentvolumeclaims", "default", {"metadata": {"name": "claim"}})
    assert (await store.get_config_map("default", "c"))["data"] == {"k": "v"}
    assert decode_secret(await store.get_secret("other", "s")) == {"k": b"v", "b": b"\xff"}
    (service,) = await store.list_services("default")
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 443]
    assert await store.list_services("other") == []
    assert await store.get_object("v1", "persistentvolumeclaims", "default", "claim")
    assert store.reads[0] == ("configmap", "default", "c")


async def test_absent_objects_have_the_servers_message():
    store = FakeObjectStore()
    store.add_config_map("c")
    store.remove("configmap", "c")
    for work, message in (
        (store.get_config_map("default", "c"), 'configmap "c" not found'),
        (store.get_secret("default", "s"), 'secret "s" not found'),
        (store.get_object("v1", "nodes", None, "n"), 'nodes "n" not found'),
    ):
        with pytest.raises(NotFoundError) as caught:
            await work
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="kind must be"):
        store.remove("pod", "p")


async def test_tokens_differ_and_expire():
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    store = FakeObjectStore(clock=clock)
    first = await store.create_service_account_token("default", "sa", {"expirationSeconds": 600})
    second = await store.create_service_account_token("default", "sa", {})
    assert first["expirationTimestamp"] == "2026-01-01T00:10:00Z"
    assert first["token"] != second["token"]
    assert store.token_requests[0] == ("default", "sa", {"expirationSeconds": 600})


async def test_unavailable_store_does_not_answer():
    store = FakeObjectStore()
    store.add_config_map("c")
    store.set_available(False)
    with pytest.raises(TransientError, match="did not answer"):
        await store.get_config_map("default", "c")
    store.set_available(True)
    assert await store.get_config_map("default", "c")


def test_context_remembers_what_was_reported():
    context, recording = make_pod_context(previous_status={"phase": "Running"})
    context.record_event("Normal", "Pulled", "text", container="c")
    context.publish_status({"phase": "Failed"})
    assert recording.reasons == ["Pulled"]
    assert recording.events[0].container == "c"
    assert recording.statuses == [{"phase": "Failed"}]
    assert context.previous_status == {"phase": "Running"}


def test_context_goes_on_with_a_recording():
    node = make_node_context(clock=FakeClock(), allocatable={"cpu": "1"})
    recording = Recording()
    for reason in ("A", "B"):
        context, same = make_pod_context(node, recording=recording)
        assert same is recording
        context.record_event("Normal", reason, "")
    assert recording.reasons == ["A", "B"]
    assert context.node.get_allocatable() == {"cpu": "1"}
    assert context.clock.now() + timedelta(0) == node.clock.now()
