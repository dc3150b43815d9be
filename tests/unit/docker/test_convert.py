"""The engine's JSON as CRI messages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vkprovider.api.labels import POD_UID
from vkprovider.backends.docker import convert, naming
from vkprovider.provider import cri

CREATED = "2026-01-02T03:04:05.123456789Z"
STARTED = "2026-01-02T03:04:06.5Z"
FINISHED = "2026-01-02T03:04:07Z"
ZERO = "0001-01-01T00:00:00Z"
CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
LABELS = {naming.KIND: "container", naming.METADATA: "app_3", naming.SANDBOX_ID: "s1", naming.IMAGE: "busybox:1"}


def inspection(*, state, labels=None, host_config=None, **fields):
    return {
        "Id": "c1",
        "Name": "/k8s_app_p_ns_uid_3",
        "Created": CREATED,
        "Image": "sha256:1",
        "State": {"Status": "exited", "Running": False, "Error": "", "StartedAt": ZERO, "FinishedAt": ZERO} | state,
        "Config": {"Image": "sha256:1", "Labels": labels or LABELS},
        "HostConfig": host_config or {"NetworkMode": "bridge"},
        **fields,
    }


def status(image=None, **state):
    found = convert.to_container_status(inspection(state=state), image)
    assert found is not None
    return found


def test_created_container():
    found = status(Status="created", ExitCode=0)
    assert found.state is cri.ContainerState.CREATED
    assert found.created_at == CREATED_AT
    assert (found.started_at, found.finished_at, found.reason) == (None, None, "")


@pytest.mark.parametrize("word", ["running", "paused"])
def test_running_container(word):
    found = status(Status=word, Running=True, StartedAt=STARTED)
    assert found.state is cri.ContainerState.RUNNING
    assert found.started_at == datetime(2026, 1, 2, 3, 4, 6, 500000, tzinfo=UTC)
    assert found.finished_at is None


@pytest.mark.parametrize(
    ("exit_code", "oom_killed", "reason"),
    [(0, False, "Completed"), (1, False, "Error"), (137, True, "OOMKilled"), (0, True, "OOMKilled")],
)
def test_exited_container(exit_code, oom_killed, reason):
    found = status(ExitCode=exit_code, OOMKilled=oom_killed, StartedAt=STARTED, FinishedAt=FINISHED)
    assert found.state is cri.ContainerState.EXITED
    assert (found.exit_code, found.reason) == (exit_code, reason)
    assert found.finished_at == datetime(2026, 1, 2, 3, 4, 7, tzinfo=UTC)


@pytest.mark.parametrize("finished", [ZERO, FINISHED])
@pytest.mark.parametrize("word", ["created", "exited"])
def test_container_that_could_not_be_started(word, finished):
    found = status(Status=word, ExitCode=127, Error="no such program", FinishedAt=finished)
    assert found.state is cri.ContainerState.EXITED
    assert (found.exit_code, found.reason, found.message) == (127, "ContainerCannotRun", "no such program")
    assert found.started_at == CREATED_AT
    assert found.finished_at is not None


def test_image_is_shown_by_its_tag_and_identified_by_its_digest():
    image = {"RepoTags": ["other:2", "busybox:1"], "RepoDigests": ["busybox@sha256:d"]}
    found = status(image, Status="running", Running=True)
    assert found.image.image == "busybox:1", "the tag that the pod named"
    assert found.image_ref == "busybox@sha256:d"
    assert found.image_id == "sha256:1"


def test_image_without_digest_or_tags_is_its_id():
    found = status({"RepoTags": [], "RepoDigests": []}, Status="running", Running=True)
    assert found.image.image == "sha256:1"
    assert found.image_ref == "sha256:1"


def test_image_that_is_gone_is_its_id():
    assert status(None, Status="running", Running=True).image_ref == "sha256:1"


def test_mounts_resources_and_log_path_of_a_container():
    document = inspection(
        state={"Status": "running", "Running": True, "StartedAt": STARTED},
        host_config={
            "NetworkMode": "container:s1",
            "CpuQuota": 50000,
            "CpuPeriod": 100000,
            "Memory": 5,
            "CpuShares": 0,
        },
        LogPath="/d/x-json.log",
        Mounts=[
            {"Type": "bind", "Source": "/h", "Destination": "/c", "RW": False, "Propagation": "rslave"},
            {"Type": "volume", "Name": "v", "Source": "/var/v", "Destination": "/v", "RW": True, "Propagation": ""},
        ],
    )
    found = convert.to_container_status(document, None)
    assert found is not None
    assert found.log_path == "/d/x-json.log"
    assert found.mounts == (
        cri.Mount("/c", host_path="/h", readonly=True, propagation=cri.MountPropagation.HOST_TO_CONTAINER),
        cri.Mount("/v", volume="v"),
    )
    assert found.resources is not None
    assert (found.resources.cpu_quota, found.resources.cpu_shares, found.resources.memory_limit_bytes) == (
        50000,
        None,
        5,
    )


def make_entry(state="running", **fields):
    return {
        "Id": "c1",
        "Names": ["/linker/alias", "/k8s_app_p_ns_uid_3"],
        "Created": 1_700_000_000,
        "Image": "busybox:1",
        "ImageID": "sha256:1",
        "State": state,
        "Labels": LABELS | {"app": "web", "annotation.a": "b"},
    } | fields


def test_listed_container():
    found = convert.to_container(make_entry())
    assert found is not None
    assert found.metadata == cri.ContainerMetadata("app", 3)
    assert found.pod_sandbox_id == "s1"
    assert found.labels == {"app": "web"}
    assert found.annotations == {"a": "b"}
    assert found.image_id == "sha256:1"
    assert found.created_at == datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("created", cri.ContainerState.CREATED),
        ("running", cri.ContainerState.RUNNING),
        ("paused", cri.ContainerState.RUNNING),
        ("removing", cri.ContainerState.EXITED),
        ("exited", cri.ContainerState.EXITED),
        ("dead", cri.ContainerState.EXITED),
        ("strange", cri.ContainerState.UNKNOWN),
    ],
)
def test_states_of_listed_containers(word, expected):
    found = convert.to_container(make_entry(word))
    assert found is not None
    assert found.state is expected


def test_container_of_unknown_identity_is_left_out():
    assert convert.to_container(make_entry(Names=["/x"], Labels={})) is None
    assert convert.to_sandbox(make_entry(Names=["/x"], Labels={})) is None


def sandbox_inspection(networks, *, running=True, mode="bridge"):
    return {
        **inspection(
            state={"Status": "running" if running else "exited", "Running": running},
            labels={naming.KIND: "sandbox", naming.METADATA: "p_ns_uid_0"},
            host_config={"NetworkMode": mode, "PidMode": "host", "IpcMode": "shareable"},
        ),
        "NetworkSettings": {"Networks": networks},
    }


def test_sandbox_addresses_begin_with_its_own_network():
    networks = {
        "added": {"IPAddress": "10.9.0.2", "GlobalIPv6Address": ""},
        "pods": {"IPAddress": "10.1.0.2", "GlobalIPv6Address": "fd00::2"},
    }
    found = convert.to_sandbox_status(sandbox_inspection(networks, mode="pods"))
    assert found is not None
    assert found.ip == "10.1.0.2"
    assert found.additional_ips == ("fd00::2", "10.9.0.2")
    assert found.state is cri.SandboxState.READY
    assert found.namespaces.pid is cri.NamespaceMode.NODE
    assert found.namespaces.ipc is cri.NamespaceMode.POD


def test_sandbox_that_is_not_ready_has_no_address():
    found = convert.to_sandbox_status(sandbox_inspection({"bridge": {"IPAddress": "10.1.0.2"}}, running=False))
    assert found is not None
    assert (found.ip, found.state) == ("", cri.SandboxState.NOT_READY)


def test_host_network_sandbox_has_no_address():
    found = convert.to_sandbox_status(sandbox_inspection({"host": {"IPAddress": ""}}, mode="host"))
    assert found is not None
    assert found.ip == ""
    assert found.namespaces.network is cri.NamespaceMode.NODE


@pytest.mark.parametrize(
    ("user", "expected"),
    [("", (None, "")), ("0", (0, "")), ("1000:2000", (1000, "")), ("app", (None, "app")), ("app:grp", (None, "app"))],
)
def test_image_user(user, expected):
    assert convert.parse_image_user(user) == expected


def test_image_hides_the_engines_placeholders():
    image = convert.to_image(
        {"Id": "sha256:1", "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"], "Size": 5}
    )
    assert image == cri.Image("sha256:1", size_bytes=5)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("create", cri.ContainerEventType.CREATED),
        ("start", cri.ContainerEventType.STARTED),
        ("die", cri.ContainerEventType.STOPPED),
        ("destroy", cri.ContainerEventType.DELETED),
        ("exec_start: sh", None),
        ("rename", None),
    ],
)
def test_events(action, expected):
    document = {"Action": action, "Actor": {"ID": "c1", "Attributes": {POD_UID: "u"}}, "timeNano": 1_500_000_000}
    event = convert.to_event(document)
    assert (None if event is None else event.type) is expected
    if event is not None:
        assert (event.container_id, event.pod_uid) == ("c1", "u")
        assert event.created_at == datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)


def test_an_end_that_the_engine_noted_before_the_start_is_put_right():
    found = status(ExitCode=0, StartedAt="2026-01-02T03:04:05.000900Z", FinishedAt="2026-01-02T03:04:05.000100Z")
    assert found.started_at == found.finished_at
    assert found.finished_at.microsecond == 100
