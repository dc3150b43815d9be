"""Security settings of the CRI as the engine's ``SecurityOpt`` and ``HostConfig``.

Source: cri-dockerd core/security_context.go, core/helpers_linux.go.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vkprovider.api.reasons import CREATE_CONTAINER_ERROR
from vkprovider.errors import PodSyncError
from vkprovider.provider import cri


def read_seccomp_profile(path: str, *, reason: str = CREATE_CONTAINER_ERROR) -> str:
    """Contents of a seccomp profile, compact. Blocks.

    Raises:
        PodSyncError: The file cannot be read or is not JSON.
    """
    try:
        return json.dumps(json.loads(Path(path.removeprefix("localhost/")).read_text()), separators=(",", ":"))
    except (OSError, ValueError) as error:
        raise PodSyncError(f"failed to load the seccomp profile {path!r}: {error}", reason=reason) from error


def seccomp_options(profile: cri.SecurityProfile, contents: str | None) -> list[str]:
    """Options for a seccomp profile; ``contents`` is that of a localhost profile."""
    match profile.profile_type:
        case cri.ProfileType.UNCONFINED:
            return ["seccomp=unconfined"]
        case cri.ProfileType.LOCALHOST:
            return [f"seccomp={contents}"]
        case _:
            return []  # saying nothing is the engine's default profile


def apparmor_options(profile: cri.SecurityProfile | None, *, supported: bool, reason: str) -> list[str]:
    """Options for an AppArmor profile.

    Raises:
        PodSyncError: A profile is asked for by name on an engine without AppArmor, which would silently ignore it.
    """
    if profile is None or profile.profile_type is cri.ProfileType.RUNTIME_DEFAULT:
        return []
    if profile.profile_type is cri.ProfileType.UNCONFINED:
        return ["apparmor=unconfined"] if supported else []
    if not supported:
        raise PodSyncError(
            f"AppArmor profile {profile.localhost_ref!r} cannot be enforced: the engine's host has no AppArmor",
            reason=reason,
        )
    return [f"apparmor={profile.localhost_ref}"]


def selinux_options(option: cri.SELinuxOption | None) -> list[str]:
    """Options for an SELinux label."""
    if option is None:
        return []
    parts = {"user": option.user, "role": option.role, "type": option.type, "level": option.level}
    return [f"label={key}:{value}" for key, value in parts.items() if value]


def make_user(uid: int | None, username: str, gid: int | None, *, reason: str) -> str:
    """Value of ``Config.User``; empty leaves it to the image.

    Raises:
        PodSyncError: A group without a user, which the CRI forbids.
    """
    user = username or ("" if uid is None else str(uid))
    if gid is None:
        return user
    if not user:
        raise PodSyncError("runAsGroup is specified without a runAsUser", reason=reason)
    return f"{user}:{gid}"


def apply_paths(host_config: dict[str, Any], context: cri.LinuxContainerSecurityContext) -> None:
    """Masked and read-only paths, which a privileged container does not have."""
    if context.privileged:
        return
    if context.masked_paths is not None:
        host_config["MaskedPaths"] = list(context.masked_paths)
    if context.readonly_paths is not None:
        host_config["ReadonlyPaths"] = list(context.readonly_paths)
