"""Shapes of the Kubernetes objects that vkprovider reads and writes, as they stand on the wire.

Keys keep their wire spelling. Objects from the API server are shared between parts and must be treated as read-only;
who needs a changed one makes a copy. Every key may be absent (``total=False``), as in the API.

Import it as a module: ``from vkprovider.api import v1`` and write ``v1.Pod``.

Source: staging/src/k8s.io/api/core/v1/types.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NewType, TypedDict

PodUID = NewType("PodUID", str)
"""``metadata.uid`` of a pod: its identity; names come again, UIDs do not."""

ConditionStatus = Literal["True", "False", "Unknown"]
ResourceList = Mapping[str, str]
"""Resource name to quantity string, e.g. ``{"cpu": "250m", "memory": "64Mi"}``."""


class OwnerReference(TypedDict, total=False):
    """``metadata.ownerReferences[]``."""

    apiVersion: str
    kind: str
    name: str
    uid: str
    controller: bool
    blockOwnerDeletion: bool


class ObjectMeta(TypedDict, total=False):
    """``metadata`` of any object."""

    name: str
    generateName: str
    namespace: str
    uid: str
    resourceVersion: str
    generation: int
    creationTimestamp: str
    deletionTimestamp: str
    deletionGracePeriodSeconds: int
    labels: dict[str, str]
    annotations: dict[str, str]
    ownerReferences: list[OwnerReference]
    finalizers: list[str]


class ObjectReference(TypedDict, total=False):
    """Reference to an object, as in ``involvedObject`` of an event."""

    apiVersion: str
    kind: str
    name: str
    namespace: str
    uid: str
    resourceVersion: str
    fieldPath: str


class ContainerPort(TypedDict, total=False):
    """``ports[]`` of a container."""

    name: str
    containerPort: int
    hostPort: int
    hostIP: str
    protocol: str


class ResourceRequirements(TypedDict, total=False):
    """``resources`` of a container or pod."""

    limits: dict[str, str]
    requests: dict[str, str]
    claims: list[dict[str, str]]


class VolumeMount(TypedDict, total=False):
    """``volumeMounts[]`` of a container."""

    name: str
    mountPath: str
    readOnly: bool
    recursiveReadOnly: str
    subPath: str
    subPathExpr: str
    mountPropagation: str


class EnvVar(TypedDict, total=False):
    """``env[]`` of a container."""

    name: str
    value: str
    valueFrom: dict[str, Any]


class ContainerRestartRule(TypedDict, total=False):
    """``restartPolicyRules[]`` of a container."""

    action: str
    exitCodes: dict[str, Any]


class Container(TypedDict, total=False):
    """A container of a pod spec: app, init, sidecar (init with ``restartPolicy: Always``) or ephemeral."""

    name: str
    image: str
    imagePullPolicy: str
    command: list[str]
    args: list[str]
    workingDir: str
    ports: list[ContainerPort]
    env: list[EnvVar]
    envFrom: list[dict[str, Any]]
    resources: ResourceRequirements
    resizePolicy: list[dict[str, str]]
    volumeMounts: list[VolumeMount]
    volumeDevices: list[dict[str, str]]
    livenessProbe: dict[str, Any]
    readinessProbe: dict[str, Any]
    startupProbe: dict[str, Any]
    lifecycle: dict[str, Any]
    restartPolicy: str
    restartPolicyRules: list[ContainerRestartRule]
    terminationMessagePath: str
    terminationMessagePolicy: str
    securityContext: dict[str, Any]
    stdin: bool
    stdinOnce: bool
    tty: bool
    targetContainerName: str


class PodSpec(TypedDict, total=False):
    """``spec`` of a pod."""

    nodeName: str
    nodeSelector: dict[str, str]
    affinity: dict[str, Any]
    tolerations: list[dict[str, Any]]
    containers: list[Container]
    initContainers: list[Container]
    ephemeralContainers: list[Container]
    volumes: list[dict[str, Any]]
    restartPolicy: str
    terminationGracePeriodSeconds: int
    activeDeadlineSeconds: int
    dnsPolicy: str
    dnsConfig: dict[str, Any]
    serviceAccountName: str
    automountServiceAccountToken: bool
    hostNetwork: bool
    hostPID: bool
    hostIPC: bool
    hostUsers: bool
    shareProcessNamespace: bool
    securityContext: dict[str, Any]
    imagePullSecrets: list[dict[str, str]]
    hostname: str
    subdomain: str
    hostnameOverride: str
    setHostnameAsFQDN: bool
    hostAliases: list[dict[str, Any]]
    priority: int
    priorityClassName: str
    runtimeClassName: str
    overhead: dict[str, str]
    enableServiceLinks: bool
    readinessGates: list[dict[str, str]]
    os: dict[str, str]
    resources: ResourceRequirements
    resourceClaims: list[dict[str, Any]]
    schedulerName: str


class ContainerStateWaiting(TypedDict, total=False):
    """``state.waiting``."""

    reason: str
    message: str


class ContainerStateRunning(TypedDict, total=False):
    """``state.running``."""

    startedAt: str


class ContainerStateTerminated(TypedDict, total=False):
    """``state.terminated``."""

    exitCode: int
    signal: int
    reason: str
    message: str
    startedAt: str | None
    finishedAt: str | None
    containerID: str


class ContainerState(TypedDict, total=False):
    """Exactly one of its keys is set."""

    waiting: ContainerStateWaiting
    running: ContainerStateRunning
    terminated: ContainerStateTerminated


class ContainerStatus(TypedDict, total=False):
    """One entry of ``status.containerStatuses`` and its siblings."""

    name: str
    state: ContainerState
    lastState: ContainerState
    ready: bool
    started: bool
    restartCount: int
    image: str
    imageID: str
    containerID: str
    allocatedResources: dict[str, str]
    resources: ResourceRequirements
    volumeMounts: list[dict[str, Any]]
    user: dict[str, Any]


class PodCondition(TypedDict, total=False):
    """``status.conditions[]`` of a pod."""

    type: str
    status: str
    reason: str
    message: str
    lastProbeTime: str | None
    lastTransitionTime: str | None
    observedGeneration: int


class PodStatus(TypedDict, total=False):
    """``status`` of a pod."""

    observedGeneration: int
    phase: str
    conditions: list[PodCondition]
    message: str
    reason: str
    nominatedNodeName: str
    hostIP: str
    hostIPs: list[dict[str, str]]
    podIP: str
    podIPs: list[dict[str, str]]
    startTime: str
    qosClass: str
    containerStatuses: list[ContainerStatus]
    initContainerStatuses: list[ContainerStatus]
    ephemeralContainerStatuses: list[ContainerStatus]
    resources: ResourceRequirements
    allocatedResources: dict[str, str]


class Pod(TypedDict, total=False):
    """A pod."""

    apiVersion: str
    kind: str
    metadata: ObjectMeta
    spec: PodSpec
    status: PodStatus


class Taint(TypedDict, total=False):
    """``spec.taints[]`` of a node."""

    key: str
    value: str
    effect: str
    timeAdded: str


class NodeCondition(TypedDict, total=False):
    """``status.conditions[]`` of a node."""

    type: str
    status: str
    reason: str
    message: str
    lastHeartbeatTime: str
    lastTransitionTime: str


class NodeSpec(TypedDict, total=False):
    """``spec`` of a node."""

    taints: list[Taint]
    unschedulable: bool
    providerID: str
    podCIDR: str
    podCIDRs: list[str]


class NodeStatus(TypedDict, total=False):
    """``status`` of a node."""

    capacity: dict[str, str]
    allocatable: dict[str, str]
    conditions: list[NodeCondition]
    addresses: list[dict[str, str]]
    daemonEndpoints: dict[str, Any]
    nodeInfo: dict[str, Any]
    images: list[dict[str, Any]]
    runtimeHandlers: list[dict[str, Any]]
    features: dict[str, Any]
    declaredFeatures: list[str]
    volumesInUse: list[str]
    volumesAttached: list[dict[str, str]]


class Node(TypedDict, total=False):
    """A node."""

    apiVersion: str
    kind: str
    metadata: ObjectMeta
    spec: NodeSpec
    status: NodeStatus


class Lease(TypedDict, total=False):
    """A lease of ``coordination.k8s.io/v1``."""

    apiVersion: str
    kind: str
    metadata: ObjectMeta
    spec: dict[str, Any]


class ConfigMap(TypedDict, total=False):
    """A config map; ``binaryData`` values are base64."""

    metadata: ObjectMeta
    data: dict[str, str]
    binaryData: dict[str, str]
    immutable: bool


class Secret(TypedDict, total=False):
    """A secret; ``data`` values are base64."""

    metadata: ObjectMeta
    type: str
    data: dict[str, str]
    immutable: bool


class Service(TypedDict, total=False):
    """A service."""

    metadata: ObjectMeta
    spec: dict[str, Any]
