"""Volumes of kind ``ephemeral``: a claim of the pod's own, made by the cluster's controller.

Source: staging/src/k8s.io/component-helpers/storage/ephemeral/ephemeral.go.
"""

from __future__ import annotations

from typing import ClassVar

from vkprovider.api.pods import get_uid
from vkprovider.kubelet.volumes.contracts import PreparedVolume, VolumePlugin, VolumeRequest
from vkprovider.kubelet.volumes.persistent_volume_claim import prepare_claim


class EphemeralPlugin(VolumePlugin):
    """The claim ``<pod>-<volume>``, which the pod must own."""

    kind: ClassVar[str] = "ephemeral"

    async def prepare(self, request: VolumeRequest) -> PreparedVolume:
        """The volume behind the claim. Raises: PodSyncError, TransientError."""
        pod = request.pod
        return await prepare_claim(request, f"{pod['metadata']['name']}-{request.name}", owner_uid=get_uid(pod))
