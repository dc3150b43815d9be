"""Security settings of sandboxes and containers. Pure.

Source: pkg/kubelet/kuberuntime/security_context.go, helpers.go, kuberuntime/util/util.go; pkg/securitycontext/util.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vkprovider.api import v1
from vkprovider.api.pods import format_pod, iter_containers
from vkprovider.api.reasons import CREATE_CONTAINER_CONFIG_ERROR
from vkprovider.errors import PodSyncError
from vkprovider.provider import cri

MASKED_PATHS: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_APPARMOR_ANNOTATION: Final = "container.apparmor.security.beta.kubernetes.io/"
_PER_CONTAINER_OR_POD: Final = ("runAsUser", "runAsGroup", "runAsNonRoot", "seLinuxOptions")


def get_pod_security_context(pod: v1.Pod) -> Mapping[str, Any]:
    """``spec.securityContext``, empty if there is none."""
    return pod.get("spec", {}).get("securityContext") or {}


def effective_security_context(pod: v1.Pod, container: v1.Container) -> Mapping[str, Any]:
    """The container's settings, with the pod's where it has none of its own."""
    pod_level, own = get_pod_security_context(pod), container.get("securityContext") or {}
    if not pod_level:
        return own
    return {**{key: pod_level[key] for key in _PER_CONTAINER_OR_POD if pod_level.get(key) is not None}, **own}


def make_namespaces(pod: v1.Pod, *, target_id: cri.ContainerID | None = None) -> cri.NamespaceOption:
    """Namespaces of the pod's sandbox and containers.

    Args:
        pod: The pod.
        target_id: Container whose process namespace an ephemeral container joins, where every container has its own.
    """
    spec = pod.get("spec", {})
    pid, target = cri.NamespaceMode.CONTAINER, None
    if spec.get("hostPID"):
        pid = cri.NamespaceMode.NODE
    elif spec.get("shareProcessNamespace"):
        pid = cri.NamespaceMode.POD
    elif target_id is not None:
        pid, target = cri.NamespaceMode.TARGET, target_id
    return cri.NamespaceOption(
        network=cri.NamespaceMode.NODE if spec.get("hostNetwork") else cri.NamespaceMode.POD,
        pid=pid,
        ipc=cri.NamespaceMode.NODE if spec.get("hostIPC") else cri.NamespaceMode.POD,
        target_id=target,
    )


def make_supplemental_groups(pod: v1.Pod, extra: Sequence[int] = ()) -> tuple[int, ...]:
    """``fsGroup``, then ``supplementalGroups``, then those that volumes bring."""
    context = get_pod_security_context(pod)
    groups = [context["fsGroup"]] if context.get("fsGroup") is not None else []
    return tuple(dict.fromkeys([*groups, *(context.get("supplementalGroups") or ()), *extra]))


def make_groups_policy(pod: v1.Pod) -> cri.SupplementalGroupsPolicy:
    """Whether groups of the image are added: ``Merge`` unless the pod says ``Strict``."""
    if get_pod_security_context(pod).get("supplementalGroupsPolicy") == "Strict":
        return cri.SupplementalGroupsPolicy.STRICT
    return cri.SupplementalGroupsPolicy.MERGE


def make_selinux_option(options: Mapping[str, str] | None) -> cri.SELinuxOption | None:
    """SELinux label, or None to leave it to the runtime."""
    if not options:
        return None
    return cri.SELinuxOption(
        options.get("user", ""), options.get("role", ""), options.get("type", ""), options.get("level", "")
    )


def make_sandbox_security_context(pod: v1.Pod) -> cri.LinuxSandboxSecurityContext:
    """Security settings of the sandbox; its own process always runs under the runtime's default seccomp profile."""
    context = get_pod_security_context(pod)
    return cri.LinuxSandboxSecurityContext(
        namespaces=make_namespaces(pod),
        selinux=make_selinux_option(context.get("seLinuxOptions")),
        run_as_user=context.get("runAsUser"),
        run_as_group=context.get("runAsGroup"),
        supplemental_groups=make_supplemental_groups(pod),
        supplemental_groups_policy=make_groups_policy(pod),
        privileged=any((c.get("securityContext") or {}).get("privileged") for _, c in iter_containers(pod)),
    )


def make_container_security_context(
    pod: v1.Pod,
    container: v1.Container,
    *,
    image: cri.Image | None,
    seccomp_root: Path,
    seccomp_default: bool = False,
    target_id: cri.ContainerID | None = None,
    extra_groups: Sequence[int] = (),
) -> cri.LinuxContainerSecurityContext:
    """Security settings of a container.

    Args:
        pod: The pod.
        container: One of its containers.
        image: Its image; tells the user where the spec does not.
        seccomp_root: Directory of local seccomp profiles.
        seccomp_default: Whether a container that asks for nothing gets the runtime's default profile.
        target_id: Container whose process namespace it joins.
        extra_groups: Groups that volumes bring.

    Raises:
        PodSyncError: The settings contradict each other or lack something (reason ``CreateContainerConfigError``).
    """
    context = effective_security_context(pod, container)
    uid, username = (image.uid, image.username) if image is not None else (0, "")
    check_run_as_non_root(pod, container, uid=uid, username=username)
    run_as_user = context.get("runAsUser")
    capabilities = context.get("capabilities") or {}
    unmasked = context.get("procMount") == "Unmasked"
    privileged = bool(context.get("privileged"))
    return cri.LinuxContainerSecurityContext(
        capabilities=cri.Capabilities(tuple(capabilities.get("add") or ()), tuple(capabilities.get("drop") or ())),
        privileged=privileged,
        namespaces=make_namespaces(pod, target_id=target_id),
        selinux=make_selinux_option(context.get("seLinuxOptions")),
        run_as_user=run_as_user if run_as_user is not None else uid,
        run_as_username=username if run_as_user is None and uid is None else "",
        run_as_group=context.get("runAsGroup"),
        readonly_rootfs=bool(context.get("readOnlyRootFilesystem")),
        supplemental_groups=make_supplemental_groups(pod, extra_groups),
        supplemental_groups_policy=make_groups_policy(pod),
        no_new_privs=context.get("allowPrivilegeEscalation") is False,
        masked_paths=() if unmasked else MASKED_PATHS,
        readonly_paths=() if unmasked else READONLY_PATHS,
        seccomp=make_seccomp_profile(pod, container, root=seccomp_root, default=seccomp_default),
        apparmor=make_apparmor_profile(pod, container),
    )


def check_run_as_non_root(pod: v1.Pod, container: v1.Container, *, uid: int | None, username: str) -> None:
    """Refuse a container that must not run as root but would, or might.

    Args:
        pod: The pod.
        container: One of its containers.
        uid: Numeric user of the image, or None.
        username: Named user of the image, or empty.

    Raises:
        PodSyncError: It would (reason ``CreateContainerConfigError``).

    Source: pkg/kubelet/kuberuntime/security_context_others.go, verifyRunAsNonRoot.
    """
    context = effective_security_context(pod, container)
    if not context.get("runAsNonRoot"):
        return
    where = f'(pod: "{format_pod(pod)}", container: {container["name"]})'
    run_as_user = context.get("runAsUser")
    if run_as_user is not None:
        if run_as_user == 0:
            raise _config_error(f"container's runAsUser breaks non-root policy {where}")
        return
    if uid is None and username:
        raise _config_error(
            f"container has runAsNonRoot and image has non-numeric user ({username}), "
            f"cannot verify user is non-root {where}"
        )
    if uid == 0:
        raise _config_error(f"container has runAsNonRoot and image will run as root {where}")


def make_seccomp_profile(pod: v1.Pod, container: v1.Container, *, root: Path, default: bool) -> cri.SecurityProfile:
    """The container's profile, else the pod's, else none at all unless ``default``.

    Raises:
        PodSyncError: A local profile without a name.
    """
    profile = (container.get("securityContext") or {}).get("seccompProfile") or get_pod_security_context(pod).get(
        "seccompProfile"
    )
    if profile is None:
        kind = cri.ProfileType.RUNTIME_DEFAULT if default else cri.ProfileType.UNCONFINED
        return cri.SecurityProfile(kind)
    if profile.get("type") == "RuntimeDefault":
        return cri.SecurityProfile(cri.ProfileType.RUNTIME_DEFAULT)
    if profile.get("type") == "Localhost":
        if not profile.get("localhostProfile"):
            raise _config_error("localhostProfile must be set if seccompProfile type is Localhost.")
        return cri.SecurityProfile(cri.ProfileType.LOCALHOST, str(root / profile["localhostProfile"]))
    return cri.SecurityProfile(cri.ProfileType.UNCONFINED)


def make_apparmor_profile(pod: v1.Pod, container: v1.Container) -> cri.SecurityProfile | None:
    """The container's profile, else the pod's, else that of the legacy annotation, else None: the runtime decides.

    Raises:
        PodSyncError: A local profile without a name, or a kind that does not exist.
    """
    profile = (container.get("securityContext") or {}).get("appArmorProfile") or get_pod_security_context(pod).get(
        "appArmorProfile"
    )
    if profile is None:
        annotations = pod["metadata"].get("annotations") or {}
        profile = _read_apparmor_annotation(annotations.get(_APPARMOR_ANNOTATION + container["name"], ""))
        if profile is None:
            return None
    match profile.get("type"):
        case "RuntimeDefault":
            return cri.SecurityProfile(cri.ProfileType.RUNTIME_DEFAULT)
        case "Unconfined":
            return cri.SecurityProfile(cri.ProfileType.UNCONFINED)
        case "Localhost":
            if not profile.get("localhostProfile"):
                raise _config_error("missing localhost apparmor profile name")
            return cri.SecurityProfile(cri.ProfileType.LOCALHOST, profile["localhostProfile"])
    raise _config_error(f'unknown apparmor profile type: "{profile.get("type", "")}"')


def _read_apparmor_annotation(value: str) -> dict[str, str] | None:
    if value == "runtime/default":
        return {"type": "RuntimeDefault"}
    if value == "unconfined":
        return {"type": "Unconfined"}
    if value.startswith("localhost/"):
        return {"type": "Localhost", "localhostProfile": value.removeprefix("localhost/")}
    return None


def _config_error(message: str) -> PodSyncError:
    return PodSyncError(message, reason=CREATE_CONTAINER_CONFIG_ERROR)
