"""Rows and ages as kubectl shows them."""

from __future__ import annotations

import pytest

from vkprovider.localcluster.podtable import pod_row
from vkprovider.localcluster.printers import find_printer, human_duration
from vkprovider.localcluster.registry import Registry
from vkprovider.localcluster.tables import make_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (130, "2m10s"),
        (599, "9m59s"),
        (600, "10m"),
        (10799, "179m"),
        (10800, "3h"),
        (3 * 3600 + 120, "3h2m"),
        (8 * 3600, "8h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (8 * 86400, "8d"),
        (730 * 86400, "2y"),
        (740 * 86400, "2y10d"),
        (3000 * 86400, "8y"),
    ],
)
def test_ages(seconds, text):
    assert human_duration(seconds) == text


def status_of(state, *, ready=False, name="c", restarts=0, last=None, started=None):
    found = {"name": name, "ready": ready, "restartCount": restarts, "state": state}
    if last:
        found["lastState"] = {"terminated": {"finishedAt": last}}
    if started is not None:
        found["started"] = started
    return found


def row(status, spec=None, **metadata):
    pod = {
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z", **metadata},
        "spec": spec or {"containers": [{"name": "c"}]},
        "status": status,
    }
    return pod_row(pod, lambda moment: "AGE" if moment else "<unknown>")


RUNNING = {"running": {}}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
TWO = {"containers": [{"name": "c"}, {"name": "d"}]}
INIT = {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]}
SIDECAR = {"containers": [{"name": "c"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]}


@pytest.mark.parametrize(
    ("status", "spec", "ready", "reason"),
    [
        ({"phase": "Pending"}, None, "0/1", "Pending"),
        ({"phase": "Failed", "reason": "Evicted"}, None, "0/1", "Evicted"),
        ({"phase": "Pending", "containerStatuses": [status_of({"waiting": {"reason": "ErrImagePull"}})]}, None, "0/1", "ErrImagePull"),
        ({"phase": "Running", "containerStatuses": [status_of(RUNNING, ready=True)]}, None, "1/1", "Running"),
        ({"phase": "Failed", "containerStatuses": [status_of({"terminated": {"reason": "Error", "exitCode": 1}})]}, None, "0/1", "Error"),
        ({"phase": "Failed", "containerStatuses": [status_of({"terminated": {"exitCode": 7}})]}, None, "0/1", "ExitCode:7"),
        ({"phase": "Failed", "containerStatuses": [status_of({"terminated": {"signal": 9}})]}, None, "0/1", "Signal:9"),
        (
            {"phase": "Running", **READY, "containerStatuses": [status_of({"terminated": {"reason": "Completed"}}), status_of(RUNNING, ready=True, name="d")]},
            TWO, "1/2", "Running",
        ),
        (
            {"phase": "Running", "containerStatuses": [status_of({"terminated": {"reason": "Completed"}}), status_of(RUNNING, ready=True, name="d")]},
            TWO, "1/2", "NotReady",
        ),
        ({"phase": "Pending", "initContainerStatuses": [status_of(RUNNING, name="i")]}, INIT, "0/1", "Init:0/2"),
        (
            {"phase": "Pending", "initContainerStatuses": [status_of({"terminated": {"exitCode": 0}}, name="i"), status_of({"waiting": {"reason": "PodInitializing"}}, name="j")]},
            INIT, "0/1", "Init:1/2",
        ),
        ({"phase": "Pending", "initContainerStatuses": [status_of({"waiting": {"reason": "CrashLoopBackOff"}}, name="i")]}, INIT, "0/1", "Init:CrashLoopBackOff"),
        ({"phase": "Pending", "initContainerStatuses": [status_of({"terminated": {"exitCode": 3}}, name="i")]}, INIT, "0/1", "Init:ExitCode:3"),
        (
            {"phase": "Running", "initContainerStatuses": [status_of(RUNNING, ready=True, name="s", started=True)], "containerStatuses": [status_of(RUNNING, ready=True)]},
            SIDECAR, "2/2", "Running",
        ),
    ],
)  # fmt: skip
def test_pod_rows(status, spec, ready, reason):
    assert row(status, spec)[1:3] == [ready, reason]


def test_pod_that_is_going_away():
    going = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert row({"phase": "Running"}, **going)[2] == "Terminating"
    assert row({"phase": "Succeeded"}, **going)[2] == "Succeeded"
    assert row({"phase": "Running", "reason": "NodeLost"}, **going)[2] == "Unknown"


def test_restarts_tell_when():
    status = {
        "phase": "Running",
        "containerStatuses": [status_of(RUNNING, ready=True, restarts=3, last="2026-01-01T00:00:00Z")],
    }
    assert row(status)[3] == "3 (AGE ago)"


def test_rows_match_the_columns_of_every_kind():
    bare = {"metadata": {"name": "x", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"}, "kind": "X"}
    for resource in Registry().list_stored():
        printer = find_printer(resource.key)
        assert len(printer.row(bare)) == len(printer.columns), resource.key


def test_table_carries_what_was_asked_for():
    obj = {"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "data": {"a": "b"}}
    metadata = {"resourceVersion": "5"}
    table = make_table("configmaps", [obj], metadata=metadata, include="Metadata")
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert table["rows"][0]["cells"][:2] == ["x", 1]
    assert make_table("configmaps", [obj], metadata=metadata, include="Object")["rows"][0]["object"] is obj
    bare = make_table("configmaps", [obj], metadata=metadata, include="None", headers=False)
    assert "object" not in bare["rows"][0]
    assert bare["columnDefinitions"] == []
