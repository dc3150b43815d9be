"""The state file."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.errors import ConfigurationError
from vkprovider.localcluster.persistence import SKIPPED_VERSIONS, StateFile
from vkprovider.localcluster.status import APIStatusError
from vkprovider.localcluster.store import Store


def pod(name):
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "ns"}, "spec": {"x": "ä"}}


async def test_objects_come_back_and_versions_go_on(tmp_path):
    path = tmp_path / "state.db"
    state = StateFile(path)
    store = Store(state.changed)
    assert await state.load(store) is False
    pods = store.collection("pods")
    kept = pods.put(pod("kept"))
    pods.remove(pods.put(pod("gone")))
    await state.flush()

    again = StateFile(path)
    restored = Store(again.changed)
    assert await again.load(restored) is True
    found = restored.collection("pods").find("ns", "kept")
    assert found.obj == kept.obj
    assert found.version == kept.version
    assert restored.collection("pods").find("ns", "gone") is None
    assert restored.collection("pods").put(pod("new")).version > store.version + SKIPPED_VERSIONS
    with pytest.raises(APIStatusError, match="too old"):
        restored.collection("pods").since(kept.version)


async def test_changes_are_written_in_the_background(tmp_path):
    path = tmp_path / "state.db"
    state = StateFile(path)
    store = Store(state.changed)
    await state.load(store)
    task = asyncio.create_task(state.run())
    try:
        store.collection("pods").put(pod("a"))
        async with asyncio.timeout(5):
            while not sqlite_rows(path):
                await asyncio.sleep(0.01)
    finally:
        await cancel_and_wait([task])


def sqlite_rows(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT name FROM objects").fetchall()
    finally:
        connection.close()


async def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "state.db"
    path.write_text("this is no database, and long enough to be looked at as one")
    with pytest.raises(ConfigurationError, match="cannot be used as the state file"):
        await StateFile(path).load(Store())


async def test_another_format_is_refused(tmp_path):
    path = tmp_path / "state.db"
    state = StateFile(path)
    store = Store(state.changed)
    await state.load(store)
    store.collection("pods").put(pod("a"))
    await state.flush()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value='99' WHERE key='format'")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigurationError, match="has format 99"):
        await StateFile(path).load(Store())
