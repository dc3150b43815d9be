"""Contents of the volumes that are made of API objects: configMap, secret, downwardAPI and projected.

Each becomes a payload, a mapping of relative path to file; writing it to disk is the volume manager's work. All failures are
``PodSyncError`` with reason ``FailedMount`` and the kubelet's message, to be tried again.

Source: pkg/volume/configmap, pkg/volume/secret, pkg/volume/downwardapi, pkg/volume/projected.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vkprovider.api import v1
from vkprovider.api.pods import iter_containers
from vkprovider.api.reasons import EVENT_FAILED_MOUNT
from vkprovider.errors import NotFoundError, PodSyncError, TransientError, VkproviderError
from vkprovider.resolve.downward import metadata_field_value, volume_resource_value
from vkprovider.resolve.objects import ObjectStore
from vkprovider.resolve.tokens import TokenSource

DEFAULT_MODE: Final = 0o644
"""Mode of files where a volume names none; the API server fills it in. Source: pkg/apis/core/v1/defaults.go."""
_TOKEN_MODE: Final = 0o600

PAYLOAD_VOLUME_KINDS: Final = frozenset({"configMap", "secret", "downwardAPI", "projected"})
"""Keys of ``spec.volumes[]`` that ``resolve_volume`` knows."""


@dataclass(frozen=True, slots=True)
class ProjectedFile:
    """One file of a volume.

    Attributes:
        data: Its contents.
        mode: Its permission bits.
        owner_uid: User it belongs to; None for root.
    """

    data: bytes
    mode: int = DEFAULT_MODE
    owner_uid: int | None = None


Payload = dict[str, ProjectedFile]
"""Files by path relative to the volume's root."""


@dataclass(frozen=True, slots=True)
class FileSources:
    """Where the contents of volumes come from.

    Attributes:
        objects: Objects of the cluster.
        tokens: Tokens of service accounts.
        allocatable: Allocatable resources of the node, which unset limits fall back to.
    """

    objects: ObjectStore
    tokens: TokenSource
    allocatable: v1.ResourceList = field(default_factory=dict)


async def resolve_volume(volume: Mapping[str, Any], pod: v1.Pod, *, sources: FileSources) -> Payload:
    """Files of a volume of one of the kinds in ``PAYLOAD_VOLUME_KINDS``.

    An object that is missing but optional gives no files.

    Args:
        volume: Entry of ``spec.volumes``.
        pod: The pod.
        sources: Where contents come from.

    Raises:
        PodSyncError: Something is missing or could not be read (reason ``FailedMount``).
        ValueError: The volume is of another kind.
    """
    if (source := volume.get("configMap")) is not None:
        return await _config_map_files(source, pod, sources, default_mode=_mode(source))
    if (source := volume.get("secret")) is not None:
        renamed = {**source, "name": source.get("secretName", "")}
        return await _secret_files(renamed, pod, sources, default_mode=_mode(source))
    if (source := volume.get("downwardAPI")) is not None:
        return downward_payload(
            source.get("items") or (), pod, default_mode=_mode(source), allocatable=sources.allocatable
        )
    if (source := volume.get("projected")) is not None:
        return await _projected_files(source, pod, sources)
    raise ValueError(f"volume {volume.get('name', '')} is not made of API objects: {sorted(set(volume) - {'name'})}")


def _mode(source: Mapping[str, Any]) -> int:
    mode: int | None = source.get("defaultMode")
    return DEFAULT_MODE if mode is None else mode


def _mount_error(message: str) -> PodSyncError:
    return PodSyncError(message, reason=EVENT_FAILED_MOUNT)


async def _config_map_files(
    source: Mapping[str, Any], pod: v1.Pod, sources: FileSources, *, default_mode: int
) -> Payload:
    optional = bool(source.get("optional"))
    config_map: v1.ConfigMap
    try:
        config_map = await sources.objects.get_config_map(_namespace(pod), source.get("name", ""))
    except NotFoundError as error:
        if not optional:
            raise _mount_error(error.message) from error
        config_map = {}
    except TransientError as error:
        raise _mount_error(f"failed to sync configmap cache: {error.message}") from error
    except VkproviderError as error:
        raise _mount_error(error.message) from error
    return config_map_payload(config_map, source.get("items"), default_mode=default_mode, optional=optional)


async def _secret_files(source: Mapping[str, Any], pod: v1.Pod, sources: FileSources, *, default_mode: int) -> Payload:
    optional = bool(source.get("optional"))
    secret: v1.Secret
    try:
        secret = await sources.objects.get_secret(_namespace(pod), source.get("name", ""))
    except NotFoundError as error:
        if not optional:
            raise _mount_error(error.message) from error
        secret = {}
    except TransientError as error:
        raise _mount_error(f"failed to sync secret cache: {error.message}") from error
    except VkproviderError as error:
        raise _mount_error(error.message) from error
    return secret_payload(secret, source.get("items"), default_mode=default_mode, optional=optional)


def _namespace(pod: v1.Pod) -> str:
    return pod["metadata"].get("namespace", "default")


def config_map_payload(
    config_map: v1.ConfigMap,
    items: Iterable[Mapping[str, Any]] | None = None,
    *,
    default_mode: int = DEFAULT_MODE,
    optional: bool = False,
) -> Payload:
    """Files of a config map: all keys, or only the items.

    Args:
        config_map: The config map.
        items: ``items`` of the volume: key, path and maybe mode; None or empty for all keys.
        default_mode: Mode of files whose item names none.
        optional: Whether keys may be missing.

    Raises:
        PodSyncError: An item's key is not there (reason ``FailedMount``).

    Source: pkg/volume/configmap/configmap.go, MakePayload.
    """
    data = {key: text.encode("utf-8", "surrogateescape") for key, text in (config_map.get("data") or {}).items()}
    contents = (
        {**_decode(config_map.get("binaryData"), "configmap"), **data}
        if items
        else {
            **data,
            **_decode(config_map.get("binaryData"), "configmap"),
        }
    )
    return _select(contents, items, default_mode, optional, "configmap references non-existent config key")


def secret_payload(
    secret: v1.Secret,
    items: Iterable[Mapping[str, Any]] | None = None,
    *,
    default_mode: int = DEFAULT_MODE,
    optional: bool = False,
) -> Payload:
    """Files of a secret: all keys, or only the items.

    Args:
        secret: The secret.
        items: ``items`` of the volume: key, path and maybe mode; None or empty for all keys.
        default_mode: Mode of files whose item names none.
        optional: Whether keys may be missing.

    Raises:
        PodSyncError: An item's key is not there (reason ``FailedMount``).

    Source: pkg/volume/secret/secret.go, MakePayload.
    """
    contents = _decode(secret.get("data"), "secret")
    return _select(contents, items, default_mode, optional, "references non-existent secret key")


def _decode(values: Mapping[str, str] | None, kind: str) -> dict[str, bytes]:
    decoded: dict[str, bytes] = {}
    for key, value in (values or {}).items():
        try:
            decoded[key] = base64.b64decode(value or "", validate=True)
        except binascii.Error as error:
            raise _mount_error(f"{kind} is damaged: the value of {key} is not base64") from error
    return decoded


def _select(
    contents: Mapping[str, bytes],
    items: Iterable[Mapping[str, Any]] | None,
    default_mode: int,
    optional: bool,
    complaint: str,
) -> Payload:
    if not items:
        return {key: ProjectedFile(data, default_mode) for key, data in contents.items()}
    payload: Payload = {}
    for item in items:
        key = item.get("key", "")
        if key not in contents:
            if optional:
                continue
            raise _mount_error(f"{complaint}: {key}")
        mode = item.get("mode")
        payload[item["path"]] = ProjectedFile(contents[key], default_mode if mode is None else mode)
    return payload


def downward_payload(
    items: Iterable[Mapping[str, Any]],
    pod: v1.Pod,
    *,
    default_mode: int = DEFAULT_MODE,
    allocatable: v1.ResourceList,
) -> Payload:
    """Files of a downwardAPI volume.

    Args:
        items: ``items`` of the volume: path, maybe mode, and ``fieldRef`` or ``resourceFieldRef``.
        pod: The pod.
        default_mode: Mode of files whose item names none.
        allocatable: Allocatable resources of the node, which unset limits fall back to.

    Raises:
        PodSyncError: An item refers to what is not there (reason ``FailedMount``); all such items are named.

    Source: pkg/volume/downwardapi/downwardapi.go, CollectData.
    """
    payload: Payload = {}
    complaints: list[str] = []
    for item in items:
        mode = item.get("mode")
        try:
            if (selector := item.get("fieldRef")) is not None:
                text = metadata_field_value(pod, selector.get("fieldPath", ""))
            elif (selector := item.get("resourceFieldRef")) is not None:
                text = volume_resource_value(selector, pod, allocatable=allocatable)
            else:
                text = ""
        except ValueError as error:
            complaints.append(str(error))
            continue
        payload[posixpath.normpath(item["path"])] = ProjectedFile(
            text.encode("utf-8", "surrogateescape"), default_mode if mode is None else mode
        )
    if complaints:
        raise _mount_error(aggregate_messages(complaints))
    return payload


async def _projected_files(source: Mapping[str, Any], pod: v1.Pod, sources: FileSources) -> Payload:
    """Files of all sources; a later one wins where paths are equal, and one failing source fails the volume."""
    payload: Payload = {}
    complaints: list[str] = []
    default_mode = _mode(source)
    for part in source.get("sources") or ():
        try:
            if (config_map := part.get("configMap")) is not None:
                payload.update(await _config_map_files(config_map, pod, sources, default_mode=default_mode))
            elif (secret := part.get("secret")) is not None:
                payload.update(await _secret_files(secret, pod, sources, default_mode=default_mode))
            elif (downward := part.get("downwardAPI")) is not None:
                payload.update(
                    downward_payload(
                        downward.get("items") or (), pod, default_mode=default_mode, allocatable=sources.allocatable
                    )
                )
            elif (token := part.get("serviceAccountToken")) is not None:
                payload[token["path"]] = await _token_file(token, pod, sources, default_mode=default_mode)
            else:
                kinds = ", ".join(sorted(part))
                complaints.append(f"projected volume source is not supported by this node: {kinds}")
        except PodSyncError as error:
            complaints.append(error.message)
    if complaints:
        raise _mount_error(aggregate_messages(complaints))
    return payload


async def _token_file(
    source: Mapping[str, Any], pod: v1.Pod, sources: FileSources, *, default_mode: int
) -> ProjectedFile:
    token = await sources.tokens.get_token(
        pod, audience=source.get("audience") or "", expiration_s=source.get("expirationSeconds")
    )
    owner_uid = common_run_as_user(pod)
    fs_group = (pod.get("spec", {}).get("securityContext") or {}).get("fsGroup")
    private = owner_uid is not None or fs_group is not None
    return ProjectedFile(token.encode(), _TOKEN_MODE if private else default_mode, owner_uid)


def common_run_as_user(pod: v1.Pod) -> int | None:
    """The user that all containers of the pod run as, if it is stated and the same for all; else None.

    Source: pkg/volume/util/util.go, FsUserFrom.
    """
    pod_user = (pod.get("spec", {}).get("securityContext") or {}).get("runAsUser")
    users: set[int | None] = set()
    for _, container in iter_containers(pod):
        own = (container.get("securityContext") or {}).get("runAsUser")
        users.add(pod_user if own is None else own)
    return next(iter(users)) if len(users) == 1 else None


def aggregate_messages(messages: Iterable[str]) -> str:
    """Several messages as one, the way Go joins errors: the single one as it is, else ``[a, b]`` without repeats.

    Source: apimachinery pkg/util/errors/errors.go, Aggregate.
    """
    distinct = list(dict.fromkeys(messages))
    return distinct[0] if len(distinct) == 1 else f"[{', '.join(distinct)}]"
