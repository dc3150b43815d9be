from __future__ import annotations

import os
from typing import Any

import pytest

from vkprovider.errors import KubeAPIError, NotFoundError, PodSyncError, TransientError
from vkprovider.resolve.env import EnvFile, EnvSources, make_environment, parse_env_file


@pytest.fixture
def sources(objects: Any) -> EnvSources:
    return EnvSources(
        objects=objects,
        host_ips=("192.0.2.1",),
        pod_ips=("10.0.0.5",),
        allocatable={"cpu": "4", "memory": "8Gi"},
    )


async def make(pod: Any, sources: EnvSources, **container: Any) -> dict[str, str]:
    return await make_environment(pod, {"name": "app", **container}, context=sources)  # type: ignore[typeddict-item]


async def failure(pod: Any, sources: EnvSources, **container: Any) -> str:
    with pytest.raises(PodSyncError) as caught:
        await make(pod, sources, **container)
    assert caught.value.reason == "CreateContainerConfigError"
    return caught.value.message


async def test_values_see_only_what_stands_before_them(pod: Any, objects: Any, sources: EnvSources) -> None:
    objects.add_config_map("cm", {"FROM": "cm"})
    objects.add_service("kubernetes", "10.0.0.1", [{"port": 443}], namespace="default")
    env = [
        {"name": "LATE", "value": "$(LATER)"},
        {"name": "LATER", "value": "x"},
        {"name": "ALL", "value": "$(FROM)-$(LATER)-$(KUBERNETES_SERVICE_HOST)-$$(LATER)-$(PATH)"},
        {"name": "EMPTY", "value": ""},
        {"name": "NONE"},
    ]
    values = await make(pod, sources, env=env, envFrom=[{"configMapRef": {"name": "cm"}}])
    assert values["LATE"] == "$(LATER)"
    assert values["ALL"] == "cm-x-10.0.0.1-$(LATER)-$(PATH)"
    assert values["EMPTY"] == values["NONE"] == ""
    assert values["KUBERNETES_SERVICE_PORT"] == "443"


async def test_later_sources_win_and_env_wins_over_all(pod: Any, objects: Any, sources: EnvSources) -> None:
    objects.add_config_map("a", {"X": "a", "Y": "a", "Z": "a"}, binary={"B": b"\x00"})
    objects.add_secret("b", {"Y": b"b", "Z": b"b"})
    objects.add_service("kubernetes", "10.0.0.1", [{"port": 443}], namespace="default")
    values = await make(
        pod,
        sources,
        envFrom=[{"configMapRef": {"name": "a"}}, {"secretRef": {"name": "b"}}, {"prefix": "P_", "configMapRef": {"name": "a"}}],
        env=[{"name": "Z", "value": "env"}, {"name": "KUBERNETES_SERVICE_HOST", "value": "own"}],
    )  # fmt: skip
    assert (values["X"], values["Y"], values["Z"], values["P_X"]) == ("a", "b", "env", "a")
    assert values["KUBERNETES_SERVICE_HOST"] == "own"
    assert "B" not in values


async def test_keys_of_objects(pod: Any, objects: Any, sources: EnvSources) -> None:
    objects.add_config_map("cm", {"k": "$(NOT_EXPANDED)"})
    objects.add_secret("s", {"k": b"\xff\xfeok"})
    values = await make(
        pod,
        sources,
        env=[
            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "O1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "nope", "optional": True}}},
            {"name": "O2", "valueFrom": {"configMapKeyRef": {"name": "nope", "key": "k", "optional": True}}},
        ],
    )
    assert values["C"] == "$(NOT_EXPANDED)"
    assert os.fsencode(values["S"]) == b"\xff\xfeok"
    assert "O1" not in values
    assert "O2" not in values


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, 'configmap "x" not found'),
        ({"envFrom": [{"secretRef": {"name": "x"}}]}, 'secret "x" not found'),
        ({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "k"}}}]}, 'configmap "x" not found'),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}]}, 'secret "x" not found'),
        ({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]},
         "couldn't find key k in ConfigMap ns/cm"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
         "couldn't find key k in Secret ns/s"),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}, "field label not supported: spec.x"),
        ({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "x"}}}]},
         "container x not found"),
        ({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "f", "key": "K"}}}]},
         'cannot find the volume "v" referenced by FileKeyRef'),
    ],
)  # fmt: skip
async def test_missing_values_are_named_as_the_kubelet_does(
    pod: Any, objects: Any, sources: EnvSources, container: Any, message: str
) -> None:
    objects.add_config_map("cm", {})
    objects.add_secret("s", {})
    assert await failure(pod, sources, **container) == message


async def test_optional_sources_may_be_missing(pod: Any, sources: EnvSources) -> None:
    optional = {"name": "x", "optional": True}
    assert await make(pod, sources, envFrom=[{"configMapRef": optional}, {"secretRef": optional}]) == {}


async def test_unanswered_reads_say_so(pod: Any, objects: Any, sources: EnvSources) -> None:
    pod["spec"]["enableServiceLinks"] = False
    objects.broken = TransientError("API server did not answer")
    assert await failure(pod, sources) == "services have not yet been read at least once, cannot construct envvars"
    objects.broken = KubeAPIError("secrets is forbidden", status=403, kube_reason="Forbidden")
    assert (
        await failure(pod, sources, envFrom=[{"secretRef": {"name": "s", "optional": True}}]) == "secrets is forbidden"
    )


async def test_each_object_is_read_once(pod: Any, objects: Any, sources: EnvSources) -> None:
    objects.add_config_map("cm", {"a": "1", "b": "2"})
    reads = []
    original = objects.get_config_map

    async def counting(namespace: str, name: str) -> Any:
        reads.append(name)
        return await original(namespace, name)

    objects.get_config_map = counting
    env = [{"name": k, "valueFrom": {"configMapKeyRef": {"name": "cm", "key": k}}} for k in ("a", "b")]
    assert await make(pod, sources, env=env, envFrom=[{"configMapRef": {"name": "cm"}}]) == {"a": "1", "b": "2"}
    assert reads == ["cm"]


async def test_fields_and_resources(pod: Any, sources: EnvSources) -> None:
    values = await make(
        pod,
        sources,
        resources={"limits": {"cpu": "250m"}},
        env=[
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}}},
        ],
    )
    assert values == {"IP": "10.0.0.5", "HOST": "192.0.2.1", "CPU": "1", "MEM": "8"}


async def test_variables_of_files(pod: Any, objects: Any) -> None:
    files = {("v", "f.env"): "A='1'\nB='two\nlines'\n", ("v", "bad"): "A=1\n"}

    async def read(volume: str, path: str) -> EnvFile:
        if volume != "v":
            raise NotFoundError("no such volume")
        if (volume, path) not in files:
            raise FileNotFoundError(path)
        return EnvFile(f"/root/v/{path}", files[volume, path])

    def ref(path: str, key: str, **extra: Any) -> Any:
        return [{"name": "X", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": path, "key": key, **extra}}}]

    sources = EnvSources(objects=objects, read_env_file=read)
    assert await make(pod, sources, env=ref("f.env", "B")) == {"X": "two\nlines"}
    assert await make(pod, sources, env=ref("f.env", "C", optional=True)) == {}
    assert await failure(pod, sources, env=ref("f.env", "C")) == (
        'environment variable key "C" not found in file "/root/v/f.env"'
    )
    assert await failure(pod, sources, env=ref("bad", "A")) == "couldn't parse env file"
    assert await failure(pod, sources, env=ref("absent", "A", optional=True)) == "couldn't parse env file"
    assert await failure(pod, sources, env=ref("f.env", "A", volumeName="w")) == (
        'cannot find the volume "w" referenced by FileKeyRef'
    )


# Rows of pkg/kubelet/util/env/env_util_test.go.
@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("KEY1='value1'\nKEY2='value2'\n", "KEY2", "value2"),
        ("  \tKEY='value'", "KEY", "value"),
        ("# KEY='no'\n\n   \nKEY='yes' # comment", "KEY", "yes"),
        ("KEY='a#b \"$HOME\" \\n'", "KEY", "a#b \"$HOME\" \\n"),
        ("KEY='line1\nline2\n\nline4'#c", "KEY", "line1\nline2\n\nline4"),
        ("KEY= 'value'\n", "KEY", ""),
        ("OTHER= junk\nKEY='v'", "KEY", "v"),
        ("KEY=''\n", "KEY", ""),
        ("KEY='v'\r\nB='w'\r\n", "B", "w"),
        ("KEY='v'\nbroken", "KEY", "v"),
        ("KEY='1'\nKEY='2'", "KEY", "1"),
        ("", "KEY", ""),
    ],
)  # fmt: skip
def test_environment_files(text: str, key: str, value: str) -> None:
    assert parse_env_file(text, key) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("KEY", "invalid environment variable format at line 1: missing '='"),
        ("\n='x'", "invalid environment variable format at line 2: empty variable name"),
        ("KEY ='x'", "invalid environment variable format at line 1: whitespace before '=' is not allowed"),
        ("KEY=x", "invalid environment variable format at line 1: value must be enclosed in single quotes"),
        ("KEY=", "invalid environment variable format at line 1: value must be enclosed in single quotes"),
        ("KEY='x' y", "invalid environment variable format at line 1: unexpected content after closing quote"),
        ("A='1'\nKEY='x\ny", "invalid environment variable format starting at line 2: unclosed single quote"),
        ("A='" + "x" * 70000 + "'", "line 1 of the environment file is longer than 65536 bytes"),
    ],
)
def test_broken_environment_files_are_named_by_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="line") as caught:
        parse_env_file(text, "KEY")
    assert str(caught.value) == message
