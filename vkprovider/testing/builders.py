"""Objects as the API server would hand them to a node: complete, with every default filled in."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, cast

from vkprovider.api import v1
from vkprovider.api.resources import compute_qos_class

DEFAULT_CREATED_AT = "2026-01-01T00:00:00Z"
_PROBE_DEFAULTS = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_NO_EXECUTE_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for taint in ("not-ready", "unreachable")
]


def make_container(
    name: str = "main",
    image: str = "busybox:1.36",
    *,
    command: Sequence[str] = (),
    args: Sequence[str] = (),
    env: Mapping[str, str] | Sequence[v1.EnvVar] = (),
    ports: Sequence[int | v1.ContainerPort] = (),
    requests: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    liveness_probe: Mapping[str, Any] | None = None,
    readiness_probe: Mapping[str, Any] | None = None,
    startup_probe: Mapping[str, Any] | None = None,
    **fields: Any,
) -> v1.Container:
    """A container of a pod spec, with the API server's defaults.

    Args:
        name: Its name.
        image: Its image; decides the default pull policy as the API server does.
        command: Entrypoint; left out when empty.
        args: Arguments; left out when empty.
        env: Name to value, or entries of ``env``.
        ports: Port numbers, or entries of ``ports``.
        requests: Resource requests; a limit without a request sets it.
        limits: Resource limits.
        liveness_probe: Probe; missing fields are filled in, likewise for the next two.
        readiness_probe: Probe.
        startup_probe: Probe.
        **fields: Any other field by its wire name, e.g. ``volumeMounts=[…]``, ``restartPolicy="Always"``.

    Source: pkg/apis/core/v1/defaults.go.
    """
    path = image.partition("@")[0].rpartition("/")[2]
    latest = "@" not in image and (":" not in path or path.endswith(":latest"))
    resources: v1.ResourceRequirements = {}
    if requests or limits:
        resources["requests"] = {**(limits or {}), **(requests or {})}
    if limits:
        resources["limits"] = dict(limits)
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "resources": resources,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always" if latest else "IfNotPresent",
    }
    if command:
        container["command"] = list(command)
    if args:
        container["args"] = list(args)
    if env:
        pairs = [{"name": key, "value": value} for key, value in env.items()] if isinstance(env, Mapping) else list(env)
        container["env"] = pairs
    if ports:
        entries = [{"containerPort": port} if isinstance(port, int) else port for port in ports]
        container["ports"] = [{"protocol": "TCP", **entry} for entry in entries]
    probes = {"livenessProbe": liveness_probe, "readinessProbe": readiness_probe, "startupProbe": startup_probe}
    for key, probe in probes.items():
        if probe is not None:
            container[key] = _complete_probe(probe)
    container.update(copy.deepcopy(fields))
    return cast(v1.Container, container)


def _complete_probe(probe: Mapping[str, Any]) -> dict[str, Any]:
    complete = {**_PROBE_DEFAULTS, **copy.deepcopy(dict(probe))}
    if "httpGet" in complete:
        complete["httpGet"] = {"path": "/", "scheme": "HTTP", **complete["httpGet"]}
    if "grpc" in complete:
        complete["grpc"] = {"service": "", **complete["grpc"]}
    return complete


def make_pod(
    name: str = "pod",
    *,
    namespace: str = "default",
    uid: str | None = None,
    containers: Sequence[v1.Container] | None = None,
    init_containers: Sequence[v1.Container] = (),
    ephemeral_containers: Sequence[v1.Container] = (),
    node_name: str = "node",
    restart_policy: str = "Always",
    grace_period_s: int = 30,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    volumes: Sequence[Mapping[str, Any]] = (),
    deletion_grace_period_s: int | None = None,
    status: v1.PodStatus | None = None,
    **fields: Any,
) -> v1.Pod:
    """A pod bound to a node, with the API server's defaults.

    Args:
        name: Its name.
        namespace: Its namespace.
        uid: Its UID; a random one when left out.
        containers: Its containers; one named ``main`` when left out.
        init_containers: Init containers; sidecars have ``restartPolicy="Always"``.
        ephemeral_containers: Ephemeral containers.
        node_name: Node it is bound to; empty for none.
        restart_policy: Restart policy.
        grace_period_s: ``terminationGracePeriodSeconds``.
        labels: Labels.
        annotations: Annotations.
        volumes: Volumes.
        deletion_grace_period_s: When given, the pod is being deleted with this grace period.
        status: Its status; ``Pending`` and scheduled when left out.
        **fields: Any other field of the spec by its wire name, e.g. ``hostNetwork=True``.

    Source: pkg/apis/core/v1/defaults.go; plugin/pkg/admission/defaulttolerationseconds.
    """
    metadata: v1.ObjectMeta = {
        "name": name,
        "namespace": namespace,
        "uid": uid or str(uuid.uuid4()),
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": DEFAULT_CREATED_AT,
    }
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    if deletion_grace_period_s is not None:
        metadata["deletionTimestamp"] = DEFAULT_CREATED_AT
        metadata["deletionGracePeriodSeconds"] = deletion_grace_period_s
    spec: dict[str, Any] = {
        "containers": [copy.deepcopy(item) for item in (containers if containers is not None else [make_container()])],
        "restartPolicy": restart_policy,
        "terminationGracePeriodSeconds": grace_period_s,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "tolerations": copy.deepcopy(_NO_EXECUTE_TOLERATIONS),
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    if init_containers:
        spec["initContainers"] = [copy.deepcopy(item) for item in init_containers]
    if ephemeral_containers:
        spec["ephemeralContainers"] = [copy.deepcopy(item) for item in ephemeral_containers]
    if volumes:
        spec["volumes"] = [copy.deepcopy(dict(volume)) for volume in volumes]
    if node_name:
        spec["nodeName"] = node_name
    spec.update(copy.deepcopy(fields))
    pod: v1.Pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": cast(v1.PodSpec, spec)}
    pod["status"] = (
        copy.deepcopy(status) if status is not None else _make_pending_status(pod, scheduled=bool(node_name))
    )
    return pod


def _make_pending_status(pod: v1.Pod, *, scheduled: bool) -> v1.PodStatus:
    status: v1.PodStatus = {"phase": "Pending", "qosClass": compute_qos_class(pod)}
    if scheduled:
        status["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "True",
                "lastProbeTime": None,
                "lastTransitionTime": DEFAULT_CREATED_AT,
                "observedGeneration": 1,
            }
        ]
    return status
