"""What the engine is asked to create: CRI configurations as bodies of ``POST /containers/create``. Pure.

Source: cri-dockerd core/sandbox_helpers.go (makeSandboxDockerConfig), core/container_create.go; Engine API, ContainerCreate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vkprovider.api.reasons import CREATE_CONTAINER_ERROR
from vkprovider.backends.docker.config import DockerConfig
from vkprovider.backends.docker.errors import CREATE_SANDBOX_ERROR
from vkprovider.backends.docker.naming import container_labels, sandbox_labels
from vkprovider.backends.docker.security import (
    apparmor_options,
    apply_paths,
    make_user,
    seccomp_options,
    selinux_options,
)
from vkprovider.errors import PodSyncError, UnsupportedError
from vkprovider.provider import cri

SANDBOX_OOM_SCORE_ADJ = -998
SANDBOX_CPU_SHARES = 2
MAX_HOSTNAME_LENGTH = 63
_NO_HEALTHCHECK = {"Test": ["NONE"]}
_RECURSIVE_READ_ONLY_API = (1, 44)
_VOLUME_SUBPATH_API = (1, 45)

_PROPAGATION = {
    cri.MountPropagation.PRIVATE: "rprivate",
    cri.MountPropagation.HOST_TO_CONTAINER: "rslave",
    cri.MountPropagation.BIDIRECTIONAL: "rshared",
}


@dataclass(frozen=True, slots=True)
class EngineFeatures:
    """What an engine can do, as far as creation depends on it.

    Attributes:
        api_version: API spoken with it.
        negative_oom_score: Whether containers may have a negative OOM score.
        apparmor: Whether its host enforces AppArmor.
        systemd_cgroups: Whether cgroup parents are systemd slices.
    """

    api_version: tuple[int, int] = (1, 41)
    negative_oom_score: bool = True
    apparmor: bool = False
    systemd_cgroups: bool = False


def make_sandbox_spec(
    config: cri.PodSandboxConfig,
    *,
    image: str,
    docker_config: DockerConfig,
    features: EngineFeatures,
    runtime_handler: str = "",
    seccomp_profile: str | None = None,
) -> dict[str, Any]:
    """Body that creates a sandbox.

    Args:
        config: The sandbox.
        image: Image of the sandbox container.
        docker_config: Settings of the backend.
        features: What the engine can do.
        runtime_handler: OCI runtime of the engine; empty for its default.
        seccomp_profile: Contents of a localhost seccomp profile.

    Raises:
        PodSyncError: The configuration makes no sense for this engine.
        UnsupportedError: It asks for something that the engine cannot do.
    """
    context = config.linux.security_context
    namespaces = context.namespaces
    if namespaces.userns is not None and namespaces.userns.mode is cri.NamespaceMode.POD:
        raise UnsupportedError(
            "can't set `spec.hostUsers: false`, runtime does not support user namespaces", reason=CREATE_SANDBOX_ERROR
        )
    host_network = namespaces.network is cri.NamespaceMode.NODE
    host_config: dict[str, Any] = {
        "NetworkMode": "host" if host_network else docker_config.network,
        "IpcMode": "host" if namespaces.ipc is cri.NamespaceMode.NODE else "shareable",
        "OomScoreAdj": SANDBOX_OOM_SCORE_ADJ if features.negative_oom_score else 0,
        "CpuShares": SANDBOX_CPU_SHARES,
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
        "SecurityOpt": [
            "no-new-privileges",
            *seccomp_options(context.seccomp, seccomp_profile),
            *apparmor_options(context.apparmor, supported=features.apparmor, reason=CREATE_SANDBOX_ERROR),
            *selinux_options(context.selinux),
        ],
    }
    if namespaces.pid is cri.NamespaceMode.NODE:
        host_config["PidMode"] = "host"
    if host_network:
        host_config["UTSMode"] = "host"
    if context.privileged:
        host_config["Privileged"] = True
        host_config["SecurityOpt"].remove("no-new-privileges")
    if context.readonly_rootfs:
        host_config["ReadonlyRootfs"] = True
    if context.supplemental_groups:
        host_config["GroupAdd"] = [str(group) for group in context.supplemental_groups]
    if config.linux.cgroup_parent:
        host_config["CgroupParent"] = make_cgroup_parent(config.linux.cgroup_parent, features)
    if config.linux.sysctls:
        host_config["Sysctls"] = dict(config.linux.sysctls)
    if runtime_handler:
        host_config["Runtime"] = runtime_handler
    _apply_dns(host_config, config.dns_config)

    body: dict[str, Any] = {
        "Image": image,
        "Labels": sandbox_labels(config, runtime_handler=runtime_handler),
        "Healthcheck": _NO_HEALTHCHECK,
        "HostConfig": host_config,
    }
    if not host_network:
        body["Hostname"] = make_hostname(config.hostname)
        if config.domainname:
            body["Domainname"] = config.domainname
        exposed, bindings = make_port_bindings(config.port_mappings)
        if bindings:
            body["ExposedPorts"] = exposed
            host_config["PortBindings"] = bindings
    user = make_user(context.run_as_user, "", context.run_as_group, reason=CREATE_SANDBOX_ERROR)
    if user:
        body["User"] = user
    return body


def make_container_spec(
    config: cri.ContainerConfig,
    *,
    sandbox_id: cri.SandboxID,
    sandbox_config: cri.PodSandboxConfig,
    docker_config: DockerConfig,
    features: EngineFeatures,
    runtime_handler: str = "",
    seccomp_profile: str | None = None,
) -> dict[str, Any]:
    """Body that creates a container joined to its sandbox.

    Args:
        config: The container.
        sandbox_id: Its sandbox.
        sandbox_config: Configuration of the sandbox.
        docker_config: Settings of the backend.
        features: What the engine can do.
        runtime_handler: OCI runtime of the engine; empty for its default.
        seccomp_profile: Contents of a localhost seccomp profile.

    Raises:
        PodSyncError: The configuration makes no sense for this engine.
        UnsupportedError: It asks for something that the engine cannot do.
    """
    context = config.security_context
    if context.supplemental_groups_policy is cri.SupplementalGroupsPolicy.STRICT:
        raise UnsupportedError(
            "supplementalGroupsPolicy Strict is not supported by the Docker Engine", reason=CREATE_CONTAINER_ERROR
        )
    joined = f"container:{sandbox_id}"
    host_config: dict[str, Any] = {
        "NetworkMode": joined,
        "IpcMode": joined,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(docker_config.log_max_bytes), "max-file": str(docker_config.log_max_files)},
        },
        "SecurityOpt": [
            *(["no-new-privileges"] if context.no_new_privs else []),
            *([] if context.privileged else seccomp_options(context.seccomp, seccomp_profile)),
            *apparmor_options(context.apparmor, supported=features.apparmor, reason=CREATE_CONTAINER_ERROR),
            *selinux_options(context.selinux),
        ],
        **make_resources(config.resources, features),
    }
    _apply_pid_namespace(host_config, context.namespaces, sandbox_id)
    if context.namespaces.network is cri.NamespaceMode.NODE:
        host_config["UTSMode"] = "host"
    if context.privileged:
        host_config["Privileged"] = True
    if context.readonly_rootfs:
        host_config["ReadonlyRootfs"] = True
    if context.supplemental_groups:
        host_config["GroupAdd"] = [str(group) for group in context.supplemental_groups]
    if context.capabilities.add:
        host_config["CapAdd"] = list(context.capabilities.add)
    if context.capabilities.drop:
        host_config["CapDrop"] = list(context.capabilities.drop)
    apply_paths(host_config, context)
    if sandbox_config.linux.cgroup_parent:
        host_config["CgroupParent"] = make_cgroup_parent(sandbox_config.linux.cgroup_parent, features)
    if runtime_handler:
        host_config["Runtime"] = runtime_handler
    binds, mounts = make_mounts(config.mounts, features)
    if binds:
        host_config["Binds"] = binds
    if mounts:
        host_config["Mounts"] = mounts
    if config.devices:
        host_config["Devices"] = [
            {
                "PathOnHost": device.host_path,
                "PathInContainer": device.container_path,
                "CgroupPermissions": device.permissions,
            }
            for device in config.devices
        ]
    if requests := make_device_requests(config.device_requests, docker_config):
        host_config["DeviceRequests"] = requests

    body: dict[str, Any] = {
        "Image": config.image.image,
        "Labels": container_labels(config, sandbox_id, sandbox_config),
        "Env": [f"{name}={value}" for name, value in config.envs.items()],
        "Healthcheck": _NO_HEALTHCHECK,
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Tty": config.tty,
        "HostConfig": host_config,
    }
    # The engine keeps the image's arguments only while its entrypoint is kept, which is the kubelet's rule as well.
    if config.command:
        body["Entrypoint"] = list(config.command)
    if config.args:
        body["Cmd"] = list(config.args)
    if config.working_dir:
        body["WorkingDir"] = config.working_dir
    if config.stop_signal:
        body["StopSignal"] = config.stop_signal
    user = make_user(context.run_as_user, context.run_as_username, context.run_as_group, reason=CREATE_CONTAINER_ERROR)
    if user:
        body["User"] = user
    return body


def make_hostname(hostname: str) -> str:
    """A host name no longer than the engine and the kernel take."""
    return hostname[:MAX_HOSTNAME_LENGTH].rstrip("-.")


def make_port_bindings(
    mappings: Iterable[cri.PortMapping],
) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, str]]]]:
    """``ExposedPorts`` and ``PortBindings``; mappings without a host port do nothing."""
    exposed: dict[str, dict[str, Any]] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for mapping in mappings:
        if not mapping.host_port:
            continue
        port = f"{mapping.container_port}/{mapping.protocol.lower()}"
        exposed[port] = {}
        bindings.setdefault(port, []).append({"HostIp": mapping.host_ip, "HostPort": str(mapping.host_port)})
    return exposed, bindings


def make_cgroup_parent(cgroup_parent: str, features: EngineFeatures) -> str:
    """A cgroup parent as the engine's cgroup driver names it. Source: cri-dockerd, GenerateExpectedCgroupParent."""
    if features.systemd_cgroups:
        return cgroup_parent.rstrip("/").rpartition("/")[2]
    return cgroup_parent


def make_resources(resources: cri.LinuxContainerResources, features: EngineFeatures) -> dict[str, Any]:
    """Cgroup settings of a container; what is None stays out."""
    result: dict[str, Any] = {}
    if resources.cpu_shares:
        result["CpuShares"] = resources.cpu_shares
    if resources.cpu_quota and resources.cpu_quota > 0:
        result["CpuQuota"] = resources.cpu_quota
        if resources.cpu_period:
            result["CpuPeriod"] = resources.cpu_period
    if resources.memory_limit_bytes:
        result["Memory"] = resources.memory_limit_bytes
        # Equal to the memory limit: no swap.
        result["MemorySwap"] = resources.memory_swap_limit_bytes or resources.memory_limit_bytes
    if resources.pids_limit is not None and resources.pids_limit > 0:
        result["PidsLimit"] = resources.pids_limit
    if resources.cpuset_cpus:
        result["CpusetCpus"] = resources.cpuset_cpus
    if resources.cpuset_mems:
        result["CpusetMems"] = resources.cpuset_mems
    if score := resources.oom_score_adj:
        result["OomScoreAdj"] = score if score > 0 or features.negative_oom_score else 0
    return result


def make_update(resources: cri.LinuxContainerResources) -> dict[str, Any]:
    """Body that changes the cgroup settings of a container; what is None stays as it is.

    Source: cri-dockerd core/container_update_resources.go.
    """
    result: dict[str, Any] = {}
    if resources.cpu_shares is not None:
        result["CpuShares"] = resources.cpu_shares
    if resources.cpu_period is not None:
        result["CpuPeriod"] = resources.cpu_period
    if resources.cpu_quota is not None:
        # The engine reads 0 as "leave it"; -1 lifts the limit.
        result["CpuQuota"] = resources.cpu_quota if resources.cpu_quota > 0 else -1
    if resources.memory_limit_bytes is not None:
        limit = resources.memory_limit_bytes
        result["Memory"] = limit if limit > 0 else -1
        result["MemorySwap"] = (resources.memory_swap_limit_bytes or limit) if limit > 0 else -1
    if resources.pids_limit is not None:
        result["PidsLimit"] = resources.pids_limit
    if resources.cpuset_cpus:
        result["CpusetCpus"] = resources.cpuset_cpus
    if resources.cpuset_mems:
        result["CpusetMems"] = resources.cpuset_mems
    return result


def make_mounts(mounts: Iterable[cri.Mount], features: EngineFeatures) -> tuple[list[str], list[dict[str, Any]]]:
    """``Binds`` and ``Mounts``.

    Host paths go as ``Binds`` where they can, since those create a missing host directory and can relabel; paths with a
    colon, and modes that only ``Mounts`` know, go there.

    Raises:
        UnsupportedError: A mount needs a newer engine.
    """
    binds: list[str] = []
    entries: list[dict[str, Any]] = []
    for mount in mounts:
        if mount.image is not None:
            raise UnsupportedError(
                f"image volume at {mount.container_path} is not supported by this Docker Engine",
                reason=CREATE_CONTAINER_ERROR,
            )
        if mount.recursive_read_only and features.api_version < _RECURSIVE_READ_ONLY_API:
            raise UnsupportedError(
                f"recursive read-only mount at {mount.container_path} needs Docker Engine 25 or later"
                f" (API {_RECURSIVE_READ_ONLY_API[0]}.{_RECURSIVE_READ_ONLY_API[1]})",
                reason=CREATE_CONTAINER_ERROR,
            )
        if mount.volume:
            entries.append(_volume_entry(mount, features))
        elif _needs_entry(mount, features):
            entries.append(_bind_entry(mount, features))
        else:
            binds.append(_bind(mount))
    return binds, entries


def make_device_requests(counts: Mapping[str, int], docker_config: DockerConfig) -> list[dict[str, Any]]:
    """``DeviceRequests`` for extended resources.

    Raises:
        PodSyncError: A resource has no entry in the provider's configuration.
    """
    requests: list[dict[str, Any]] = []
    for name, amount in counts.items():
        if amount <= 0:
            continue
        request = docker_config.devices.get(name)
        if request is None:
            known = ", ".join(sorted(docker_config.devices)) or "none"
            raise PodSyncError(
                f"extended resource {name} is not declared under 'devices' of the provider's configuration"
                f" (declared: {known})",
                reason=CREATE_CONTAINER_ERROR,
            )
        requests.append(
            {
                "Driver": request.driver,
                "Count": amount,
                "Capabilities": [list(group) for group in request.capabilities],
                "Options": dict(request.options),
            }
        )
    return requests


def _needs_entry(mount: cri.Mount, features: EngineFeatures) -> bool:
    if ":" in mount.host_path or ":" in mount.container_path:
        return True
    return features.api_version >= _RECURSIVE_READ_ONLY_API and mount.readonly and not mount.selinux_relabel


def _bind(mount: cri.Mount) -> str:
    options: list[str] = []
    if mount.readonly:
        options.append("ro")
    if mount.selinux_relabel:
        options.append("Z")
    if mount.propagation is not cri.MountPropagation.PRIVATE:
        options.append(_PROPAGATION[mount.propagation])
    return ":".join((mount.host_path, mount.container_path, *([",".join(options)] if options else [])))


def _bind_entry(mount: cri.Mount, features: EngineFeatures) -> dict[str, Any]:
    options: dict[str, Any] = {"Propagation": _PROPAGATION[mount.propagation]}
    if features.api_version >= _RECURSIVE_READ_ONLY_API:
        options["CreateMountpoint"] = True
        if mount.readonly:
            # Such engines make read-only mounts recursively so as far as the kernel can; say which one is meant.
            options["ReadOnlyForceRecursive" if mount.recursive_read_only else "ReadOnlyNonRecursive"] = True
    return {
        "Type": "bind",
        "Source": mount.host_path,
        "Target": mount.container_path,
        "ReadOnly": mount.readonly,
        "BindOptions": options,
    }


def _volume_entry(mount: cri.Mount, features: EngineFeatures) -> dict[str, Any]:
    options: dict[str, Any] = {"NoCopy": True}
    if mount.volume_sub_path:
        if features.api_version < _VOLUME_SUBPATH_API:
            raise UnsupportedError(
                f"sub-path {mount.volume_sub_path!r} of volume {mount.volume!r} needs Docker Engine 26 or later",
                reason=CREATE_CONTAINER_ERROR,
            )
        options["Subpath"] = mount.volume_sub_path
    return {
        "Type": "volume",
        "Source": mount.volume,
        "Target": mount.container_path,
        "ReadOnly": mount.readonly,
        "VolumeOptions": options,
    }


def _apply_dns(host_config: dict[str, Any], dns: cri.DNSConfig | None) -> None:
    if dns is None:
        return
    if dns.servers:
        host_config["Dns"] = list(dns.servers)
    # A lone dot says "no search domains"; an empty list would be filled from the host's own file.
    host_config["DnsSearch"] = list(dns.searches) or ["."]
    if dns.options:
        host_config["DnsOptions"] = list(dns.options)


def _apply_pid_namespace(
    host_config: dict[str, Any], namespaces: cri.NamespaceOption, sandbox_id: cri.SandboxID
) -> None:
    match namespaces.pid:
        case cri.NamespaceMode.NODE:
            host_config["PidMode"] = "host"
        case cri.NamespaceMode.POD:
            host_config["PidMode"] = f"container:{sandbox_id}"
        case cri.NamespaceMode.TARGET:
            host_config["PidMode"] = f"container:{namespaces.target_id}"
        case _:
            pass
