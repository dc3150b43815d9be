"""Where our files cannot be mounted, pods that need volumes wait; the service account token alone is left out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from vkprovider.testing import make_container, make_pod

pytestmark = pytest.mark.looptime

TOKEN = {"name": "kube-api-access-x7f2k", "projected": {"sources": []}}


async def test_token_volume_is_left_out_with_one_event(open_bench: Any) -> None:
    async with open_bench() as bench:
        mount = {"name": TOKEN["name"], "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
        pod = bench.drive(make_pod(containers=[make_container(volumeMounts=[mount])], volumes=[TOKEN]))
        await pod.run_for(1)
        assert pod.status["phase"] == "Running"
        bench.runtime.exit_container(pod.container_id(), 1)
        await pod.run_for(100)
        (event,) = [e for e in pod.recording.events if e.reason == "UnsupportedField"]
        assert event.kind == "Warning"
        assert 'Volume "kube-api-access-x7f2k" with the service account token is left out' in event.message


async def test_other_volume_keeps_the_pod_waiting_with_growing_pauses(open_bench: Any) -> None:
    async with open_bench() as bench:
        mount = {"name": "v", "mountPath": "/v"}
        pod = bench.drive(
            make_pod(
                containers=[make_container(volumeMounts=[mount]), make_container("b")],
                volumes=[{"name": "v", "configMap": {"name": "c"}}],
            )
        )
        await pod.run_for(600)
        assert set(pod.messages("FailedMount")) == {
            'MountVolume.SetUp failed for volume "v" : volume kind configMap is not supported by this node yet'
        }
        times = pod.times("FailedMount")
        assert [round(b - a, 2) for a, b in itertools.pairwise(times)][:10] == [
            0.5,
            1,
            2,
            4,
            8,
            16,
            32,
            64,
            122,
            122,
        ]
        assert pod.status["phase"] == "Pending"
        assert {c["state"]["waiting"]["reason"] for c in pod.status["containerStatuses"]} == {"ContainerCreating"}
        assert await bench.runtime.list_pod_sandboxes() == []
        assert pod.condition("PodReadyToStartContainers")["status"] == "False"


async def test_volume_that_nobody_mounts_is_ignored(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(volumes=[{"name": "v", "configMap": {"name": "gone"}}]))
        await pod.run_for(1)
        assert pod.status["phase"] == "Running"
