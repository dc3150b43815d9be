"""The messages of the CRI as frozen dataclasses: what crosses the seam between kubelet behaviour and a runtime.

Names and meanings are those of CRI v1, so that an adapter to a CRI socket is nearly one to one; field names follow the
protobuf definition. Departures: times are aware datetimes instead of nanoseconds, durations float seconds (``_s``), sizes
end in ``_bytes``, ``Mapping`` and tuples stand for protobuf maps and repeated fields.

Import it as a module: ``from vkprovider.provider import cri`` and write ``cri.ContainerConfig``.

Source: k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import NewType

SandboxID = NewType("SandboxID", str)
"""Runtime's id of a PodSandbox."""
ContainerID = NewType("ContainerID", str)
"""Runtime's id of a container, without the ``docker://`` scheme."""
ImageRef = NewType("ImageRef", str)
"""Reference that identifies an image on this node: a repo digest where there is one, else the image id."""


class Protocol(StrEnum):
    """Transport protocol of a port."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class NamespaceMode(Enum):
    """Whose namespace a process joins."""

    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class SandboxState(Enum):
    """State of a PodSandbox."""

    READY = 0
    NOT_READY = 1


class ContainerState(Enum):
    """State of a container."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


class MountPropagation(Enum):
    """Propagation of a mount."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


class ProfileType(Enum):
    """Kind of a seccomp or AppArmor profile."""

    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


class SupplementalGroupsPolicy(Enum):
    """Whether groups of the image's ``/etc/group`` are added."""

    MERGE = 0
    STRICT = 1


class ContainerEventType(Enum):
    """What happened to a container or sandbox."""

    CREATED = 0
    STARTED = 1
    STOPPED = 2
    DELETED = 3


@dataclass(frozen=True, slots=True)
class PodSandboxMetadata:
    """Identity of a sandbox: pod name, UID, namespace, and which attempt this is (0 first)."""

    name: str
    uid: str
    namespace: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A host port that leads to a container port."""

    container_port: int
    host_port: int
    protocol: Protocol = Protocol.TCP
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class DNSConfig:
    """Contents of ``/etc/resolv.conf``."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IDMapping:
    """Range of ids mapped from the host into a user namespace."""

    host_id: int
    container_id: int
    length: int


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """User namespace of a sandbox; mode POD means a new one with these mappings."""

    mode: NamespaceMode = NamespaceMode.NODE
    uids: tuple[IDMapping, ...] = ()
    gids: tuple[IDMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class NamespaceOption:
    """Namespaces of a sandbox or container. ``target_id`` goes with ``pid`` TARGET."""

    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.CONTAINER
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: ContainerID | None = None
    userns: UserNamespace | None = None


@dataclass(frozen=True, slots=True)
class SecurityProfile:
    """Seccomp or AppArmor profile; ``localhost_ref`` is a path (seccomp) or a loaded profile's name (AppArmor)."""

    profile_type: ProfileType = ProfileType.RUNTIME_DEFAULT
    localhost_ref: str = ""


@dataclass(frozen=True, slots=True)
class SELinuxOption:
    """SELinux label."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capabilities added to and dropped from the runtime's default set, without ``CAP_``."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinuxSandboxSecurityContext:
    """Security settings of the sandbox itself."""

    namespaces: NamespaceOption = NamespaceOption()
    selinux: SELinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    privileged: bool = False
    seccomp: SecurityProfile = SecurityProfile()
    apparmor: SecurityProfile | None = None


@dataclass(frozen=True, slots=True)
class LinuxContainerResources:
    """Cgroup settings; None leaves a value to the runtime.

    ``cpu_period`` and ``cpu_quota`` are in microseconds (quota 0: unlimited), ``cpu_shares`` in cgroup v1 shares,
    ``hugepage_limits_bytes`` maps a page size such as ``2MB`` to bytes.
    """

    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpu_shares: int | None = None
    memory_limit_bytes: int | None = None
    memory_swap_limit_bytes: int | None = None
    oom_score_adj: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int | None = None
    hugepage_limits_bytes: Mapping[str, int] = field(default_factory=dict)
    unified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LinuxPodSandboxConfig:
    """Linux settings of a sandbox."""

    cgroup_parent: str = ""
    security_context: LinuxSandboxSecurityContext = LinuxSandboxSecurityContext()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    overhead: LinuxContainerResources | None = None
    resources: LinuxContainerResources | None = None


@dataclass(frozen=True, slots=True)
class PodSandboxConfig:
    """All that a runtime needs to make a sandbox."""

    metadata: PodSandboxMetadata
    hostname: str = ""
    domainname: str = ""
    log_directory: str = ""
    dns_config: DNSConfig | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    linux: LinuxPodSandboxConfig = LinuxPodSandboxConfig()


@dataclass(frozen=True, slots=True)
class PodSandbox:
    """One sandbox in a list."""

    id: SandboxID
    metadata: PodSandboxMetadata
    state: SandboxState
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    runtime_handler: str = ""


@dataclass(frozen=True, slots=True)
class PodSandboxStatus:
    """All about one sandbox. ``ip`` is empty for host network and for a sandbox that is not ready."""

    id: SandboxID
    metadata: PodSandboxMetadata
    state: SandboxState
    created_at: datetime
    ip: str = ""
    additional_ips: tuple[str, ...] = ()
    namespaces: NamespaceOption = NamespaceOption()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    runtime_handler: str = ""


@dataclass(frozen=True, slots=True)
class ContainerMetadata:
    """Name of a container in its pod, and which attempt (restart count) this is."""

    name: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image by reference. ``user_specified_image`` is what the pod's author wrote."""

    image: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    user_specified_image: str = ""
    runtime_handler: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path, or an image, mounted into a container.

    ``volume`` names a volume of the runtime itself (for Docker an engine volume) instead of a host path; exactly one of
    ``host_path``, ``image`` and ``volume`` is set.
    """

    container_path: str
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: MountPropagation = MountPropagation.PRIVATE
    recursive_read_only: bool = False
    image: ImageSpec | None = None
    image_sub_path: str = ""
    volume: str = ""
    volume_sub_path: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A host device given to a container; ``permissions`` of ``rwm``."""

    container_path: str
    host_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class LinuxContainerSecurityContext:
    """Security settings of a container."""

    capabilities: Capabilities = Capabilities()
    privileged: bool = False
    namespaces: NamespaceOption = NamespaceOption()
    selinux: SELinuxOption | None = None
    run_as_user: int | None = None
    run_as_username: str = ""
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    seccomp: SecurityProfile = SecurityProfile(ProfileType.UNCONFINED)
    apparmor: SecurityProfile | None = None


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """All that a runtime needs to make a container.

    ``command`` replaces the image's entrypoint, ``args`` its arguments; with a command and no args the image's arguments
    are dropped. ``device_requests`` maps an extended resource to a count, for runtimes that hand out devices themselves.
    """

    metadata: ContainerMetadata
    image: ImageSpec
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    device_requests: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    stop_signal: str = ""
    resources: LinuxContainerResources = LinuxContainerResources()
    security_context: LinuxContainerSecurityContext = LinuxContainerSecurityContext()


@dataclass(frozen=True, slots=True)
class Container:
    """One container in a list."""

    id: ContainerID
    pod_sandbox_id: SandboxID
    metadata: ContainerMetadata
    image: ImageSpec
    image_ref: ImageRef
    state: ContainerState
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class ContainerUser:
    """Identity of a container's first process."""

    uid: int
    gid: int
    supplemental_groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """All about one container.

    ``reason`` is ``Completed``, ``Error``, ``OOMKilled``, ``ContainerCannotRun`` or ``StartError`` once exited.
    ``log_path`` is where the log can be read on this host, if anywhere.
    """

    id: ContainerID
    metadata: ContainerMetadata
    state: ContainerState
    created_at: datetime
    image: ImageSpec
    image_ref: ImageRef
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    log_path: str = ""
    resources: LinuxContainerResources | None = None
    user: ContainerUser | None = None
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class PodSandboxFilter:
    """Which sandboxes to list; all given parts must match."""

    id: SandboxID | None = None
    state: SandboxState | None = None
    label_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerFilter:
    """Which containers to list; all given parts must match."""

    id: ContainerID | None = None
    pod_sandbox_id: SandboxID | None = None
    state: ContainerState | None = None
    label_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """A hint that something changed. ``pod_uid`` comes from the labels; ``container_id`` may be a sandbox's id."""

    container_id: str
    type: ContainerEventType
    created_at: datetime
    pod_uid: str = ""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """Outcome of a command run in a container; both outputs in full, up to the runtime's cap."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


@dataclass(frozen=True, slots=True)
class RuntimeCondition:
    """One condition of a runtime: ``RuntimeReady`` or ``NetworkReady``."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeHandler:
    """A handler (RuntimeClass) and what it can do; the default one has the name ``""``."""

    name: str = ""
    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """Health and abilities of a runtime."""

    conditions: tuple[RuntimeCondition, ...] = ()
    runtime_handlers: tuple[RuntimeHandler, ...] = ()
    supplemental_groups_policy: bool | None = None


@dataclass(frozen=True, slots=True)
class RuntimeVersion:
    """Name and version of a runtime, as in ``docker://28.0.1``."""

    runtime_name: str
    runtime_version: str
    runtime_api_version: str = ""


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Credentials for one registry."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    server_address: str = ""
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Image:
    """An image on this node. ``uid`` is set for a numeric user, ``username`` for a named one."""

    id: str
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    size_bytes: int = 0
    uid: int | None = None
    username: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """Usage of the filesystem at ``mountpoint``."""

    mountpoint: str
    used_bytes: int
    inodes_used: int = 0


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """CPU use: cumulative core-nanoseconds at ``at``."""

    at: datetime
    usage_core_nanoseconds: int


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Memory use at ``at``; the working set is the usage minus inactive file pages."""

    at: datetime
    working_set_bytes: int
    usage_bytes: int = 0
    rss_bytes: int = 0
    page_faults: int = 0
    major_page_faults: int = 0


@dataclass(frozen=True, slots=True)
class NetworkUsage:
    """Counters of one interface of a sandbox."""

    at: datetime
    name: str
    rx_bytes: int = 0
    rx_errors: int = 0
    tx_bytes: int = 0
    tx_errors: int = 0


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """Figures of one container; None where the runtime does not know."""

    id: ContainerID
    metadata: ContainerMetadata
    labels: Mapping[str, str]
    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    writable_layer_bytes: int | None = None
    process_count: int | None = None


@dataclass(frozen=True, slots=True)
class PodSandboxStats:
    """Figures of one sandbox with its containers."""

    id: SandboxID
    metadata: PodSandboxMetadata
    labels: Mapping[str, str]
    containers: tuple[ContainerStats, ...] = ()
    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    network: tuple[NetworkUsage, ...] = ()
    process_count: int | None = None
