"""Volumes of kind ``persistentVolumeClaim``, for persistent volumes that are paths of the host: ``hostPath`` and ``local``.

Source: pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go; pkg/volume/local/local.go.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from vkprovider.api.nodes import matches_node_selector
from vkprovider.errors import NotFoundError, VkproviderError
from vkprovider.kubelet.volumes.contracts import PreparedVolume, VolumePlugin, VolumeRequest, mount_error
from vkprovider.kubelet.volumes.host_path import prepare_host_path
from vkprovider.kubelet.volumes.ownership import set_group

GID_ANNOTATION: Final = "pv.beta.kubernetes.io/gid"
PROTECTION_FINALIZER: Final = "kubernetes.io/pvc-protection"


class PersistentVolumeClaimPlugin(VolumePlugin):
    """The persistent volume that a claim is bound to."""

    kind: ClassVar[str] = "persistentVolumeClaim"

    async def prepare(self, request: VolumeRequest) -> PreparedVolume:
        """The volume behind the claim. Raises: PodSyncError, TransientError."""
        source = request.volume["persistentVolumeClaim"]
        return await prepare_claim(request, source.get("claimName", ""), read_only=bool(source.get("readOnly")))


async def prepare_claim(
    request: VolumeRequest, claim_name: str, *, read_only: bool = False, owner_uid: str | None = None
) -> PreparedVolume:
    """The volume behind a claim.

    Args:
        request: Who wants it.
        claim_name: Name of the claim, in the pod's namespace.
        read_only: Whether containers may only read it.
        owner_uid: UID of the pod that has to own the claim; None for no such check.

    Raises:
        PodSyncError: The claim or its volume is missing, not bound, or of a kind that this node cannot mount.
    """
    namespace = request.pod["metadata"].get("namespace", "default")
    try:
        claim = await _get_claim(request, namespace, claim_name)
        if owner_uid is not None and not _is_owned(claim, owner_uid):
            raise mount_error(
                f"PVC {namespace}/{claim_name} was not created for pod {namespace}/{request.pod['metadata']['name']} "
                "(pod is not owner)"
            )
        volume = await _get_volume(request, claim)
    except VkproviderError as error:
        if owner_uid is not None and "not created for pod" in error.message:
            raise
        raise mount_error(f"error processing PVC {namespace}/{claim_name}: {error.message}") from error
    spec = volume.get("spec") or {}
    if (spec.get("volumeMode") or "Filesystem") != "Filesystem":
        raise mount_error(
            f"volume {request.name} has volumeMode {spec['volumeMode']}, which this node does not support yet"
        )
    await _check_affinity(request, spec)
    if (host_path := spec.get("hostPath")) is not None:
        prepared = prepare_host_path(
            request, host_path.get("path", ""), host_path.get("type") or "", read_only=read_only
        )
    elif (local := spec.get("local")) is not None:
        prepared = _prepare_local(request, local, read_only=read_only)
    else:
        kinds = {
            "capacity",
            "accessModes",
            "claimRef",
            "persistentVolumeReclaimPolicy",
            "storageClassName",
            "volumeMode",
        }
        kind = ", ".join(sorted(key for key in spec if key not in kinds | {"nodeAffinity", "mountOptions"}))
        raise mount_error(f"persistent volumes of kind {kind or 'unknown'} are not supported by this node")
    gid = (volume["metadata"].get("annotations") or {}).get(GID_ANNOTATION, "")
    return replace(prepared, supplemental_groups=(int(gid),)) if gid.isdigit() else prepared


async def _get_claim(request: VolumeRequest, namespace: str, name: str) -> Mapping[str, Any]:
    try:
        claim = await request.node.objects.get_object("v1", "persistentvolumeclaims", namespace, name)
    except NotFoundError as error:
        raise mount_error(f'failed to fetch PVC from API server: persistentvolumeclaims "{name}" not found') from error
    except VkproviderError as error:
        raise mount_error(f"failed to fetch PVC from API server: {error.message}") from error
    metadata = claim["metadata"]
    if metadata.get("deletionTimestamp") and PROTECTION_FINALIZER not in (metadata.get("finalizers") or ()):
        raise mount_error("PVC is being deleted")
    if (claim.get("status") or {}).get("phase") != "Bound":
        raise mount_error("PVC is not bound")
    if not (claim.get("spec") or {}).get("volumeName"):
        raise mount_error("PVC has empty pvc.Spec.VolumeName")
    return claim


async def _get_volume(request: VolumeRequest, claim: Mapping[str, Any]) -> Mapping[str, Any]:
    name = claim["spec"]["volumeName"]
    try:
        volume = await request.node.objects.get_object("v1", "persistentvolumes", None, name)
    except NotFoundError as error:
        raise mount_error(f'failed to fetch PV {name} from API server: persistentvolumes "{name}" not found') from error
    except VkproviderError as error:
        raise mount_error(f"failed to fetch PV {name} from API server: {error.message}") from error
    reference = (volume.get("spec") or {}).get("claimRef")
    if not reference:
        raise mount_error(
            f"found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        )
    if reference.get("uid") != claim["metadata"]["uid"]:
        raise mount_error(
            f"found PV object {name} but its pv.Spec.ClaimRef.UID {reference.get('uid', '')} does not point to claim.UID "
            f"{claim['metadata']['uid']}"
        )
    return volume


async def _check_affinity(request: VolumeRequest, spec: Mapping[str, Any]) -> None:
    required = (spec.get("nodeAffinity") or {}).get("required")
    if not required:
        return
    node = await request.node.objects.get_object("v1", "nodes", None, request.node.node_name)
    if not matches_node_selector(required, node):
        raise mount_error(
            "no matching NodeSelectorTerms: the node affinity of the persistent volume excludes this node"
        )


def _is_owned(claim: Mapping[str, Any], uid: str) -> bool:
    return any(
        owner.get("controller") and owner.get("uid") == uid for owner in claim["metadata"].get("ownerReferences") or ()
    )


def _prepare_local(request: VolumeRequest, local: Mapping[str, Any], *, read_only: bool) -> PreparedVolume:
    path = Path(local.get("path", ""))
    if ".." in path.parts or not path.is_absolute():
        raise mount_error(f"invalid path: {path} must be absolute, without '..'")
    if not request.host.sees_host and not request.host.simulated:
        raise mount_error(f"local volume {path}: the node agent does not share the host's mount namespace")
    group, keeps = request.fs_group, request.keeps_matching_ownership

    def work() -> None:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise mount_error(f"{path}: only directories are supported")
        if group is not None and not read_only:
            set_group(path, group, only_on_mismatch=keeps)

    return PreparedVolume(path, work, read_only=read_only)
