"""The environment of a container.

Values are read when asked for, so that a container started again gets fresh ones. Bytes of a secret that are not UTF-8 travel
as surrogate escapes (``os.fsencode`` gives them back).

Source: pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables; pkg/kubelet/util/env/env_util.go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vkprovider.api import v1
from vkprovider.api.reasons import CREATE_CONTAINER_CONFIG_ERROR
from vkprovider.errors import NotFoundError, PodSyncError, TransientError, VkproviderError
from vkprovider.resolve.downward import env_field_value, env_resource_value
from vkprovider.resolve.expansion import expand
from vkprovider.resolve.objects import ObjectStore
from vkprovider.resolve.service_env import get_service_environment

_MAX_LINE_BYTES: Final = 64 * 1024
"""Longest line of an environment file. Source: Go bufio.Scanner, MaxScanTokenSize."""
_BLANKS: Final = " \t"


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A file of a volume that holds variables: its path on the host, for messages, and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class EnvSources:
    """Where the values of variables come from.

    Attributes:
        objects: Objects of the cluster.
        host_ips: Addresses of the node, primary first.
        pod_ips: Addresses of the pod's sandbox.
        allocatable: Allocatable resources of the node, which unset limits fall back to.
        read_env_file: Reads a file of a volume: name of the volume and path in it, without leaving the volume by links. Raises
            ``NotFoundError`` when the pod has no such volume here, ``OSError`` when the file cannot be read. None where there are
            no volumes.
    """

    objects: ObjectStore
    host_ips: tuple[str, ...] = ()
    pod_ips: tuple[str, ...] = ()
    allocatable: v1.ResourceList = field(default_factory=dict)
    read_env_file: Callable[[str, str], Awaitable[EnvFile]] | None = None


async def make_environment(pod: v1.Pod, container: v1.Container, *, context: EnvSources) -> dict[str, str]:
    """All variables of a container: those of ``envFrom`` and ``env``, then those of services that are not set yet.

    The image's own variables lie underneath and are the runtime's business.

    Args:
        pod: The pod.
        container: One of its containers.
        context: Where values come from.

    Raises:
        PodSyncError: A value cannot be had (reason ``CreateContainerConfigError``); the message is the kubelet's.

    Source: kubelet_pods.go, makeEnvironmentVariables.
    """
    links = pod.get("spec", {}).get("enableServiceLinks")
    namespace = pod["metadata"].get("namespace", "default")
    try:
        services = await get_service_environment(
            context.objects, namespace, enable_service_links=True if links is None else links
        )
    except TransientError as error:
        raise PodSyncError(
            "services have not yet been read at least once, cannot construct envvars",
            reason=CREATE_CONTAINER_CONFIG_ERROR,
        ) from error
    builder = _EnvironmentBuilder(pod, container, namespace, context, services)
    for source in container.get("envFrom") or ():
        await builder.add_source(source)
    for variable in container.get("env") or ():
        await builder.add_variable(variable)
    return {**builder.values, **{name: value for name, value in services.items() if name not in builder.values}}


class _EnvironmentBuilder:
    """Collects the variables of one container; each object is read once."""

    def __init__(
        self,
        pod: v1.Pod,
        container: v1.Container,
        namespace: str,
        context: EnvSources,
        services: Mapping[str, str],
    ) -> None:
        self.values: dict[str, str] = {}
        self._pod = pod
        self._container = container
        self._namespace = namespace
        self._context = context
        self._services = services
        self._objects: dict[tuple[str, str], Mapping[str, str]] = {}

    async def add_source(self, source: Mapping[str, Any]) -> None:
        for field_name, kind in (("configMapRef", "configmap"), ("secretRef", "secret")):
            if (reference := source.get(field_name)) is not None:
                data = await self._find_data(kind, reference)
                for key, value in (data or {}).items():
                    self.values[f"{source.get('prefix') or ''}{key}"] = value
                return

    async def add_variable(self, variable: v1.EnvVar) -> None:
        value: str | None = variable.get("value") or ""
        source = variable.get("valueFrom")
        if value:
            value = expand(value, self.values, self._services)
        elif source:
            value = await self._resolve(source)
        if value is not None:
            self.values[variable["name"]] = value

    async def _resolve(self, source: Mapping[str, Any]) -> str | None:
        """The value, or None to leave the variable unset."""
        try:
            if (selector := source.get("fieldRef")) is not None:
                return env_field_value(
                    selector, self._pod, pod_ips=self._context.pod_ips, host_ips=self._context.host_ips
                )
            if (selector := source.get("resourceFieldRef")) is not None:
                return env_resource_value(selector, self._pod, self._container, allocatable=self._context.allocatable)
        except ValueError as error:
            raise _config_error(str(error)) from error
        if (reference := source.get("configMapKeyRef")) is not None:
            return await self._key_value("configmap", "ConfigMap", reference)
        if (reference := source.get("secretKeyRef")) is not None:
            return await self._key_value("secret", "Secret", reference)
        if (reference := source.get("fileKeyRef")) is not None:
            return await self._file_value(reference)
        return ""

    async def _key_value(self, kind: str, kind_title: str, reference: Mapping[str, Any]) -> str | None:
        data = await self._find_data(kind, reference)
        if data is None:
            return None
        key = reference.get("key", "")
        if key in data:
            return data[key]
        if reference.get("optional"):
            return None
        raise _config_error(f"couldn't find key {key} in {kind_title} {self._namespace}/{reference.get('name', '')}")

    async def _find_data(self, kind: str, reference: Mapping[str, Any]) -> Mapping[str, str] | None:
        """Texts by key; None when the object is not there and that is allowed."""
        name = reference.get("name", "")
        if (kind, name) not in self._objects:
            try:
                if kind == "configmap":
                    config_map = await self._context.objects.get_config_map(self._namespace, name)
                    self._objects[kind, name] = config_map.get("data") or {}
                else:
                    self._objects[kind, name] = decode_secret(
                        await self._context.objects.get_secret(self._namespace, name)
                    )
            except NotFoundError as error:
                if reference.get("optional"):
                    return None
                raise _config_error(error.message) from error
            except TransientError as error:
                raise _config_error(f"failed to sync {kind} cache: {error.message}") from error
            except VkproviderError as error:
                raise _config_error(error.message) from error
        return self._objects[kind, name]

    async def _file_value(self, reference: Mapping[str, Any]) -> str | None:
        volume, key = reference.get("volumeName", ""), reference.get("key", "")
        try:
            if self._context.read_env_file is None:
                raise NotFoundError(f"no volume {volume}")
            file = await self._context.read_env_file(volume, reference.get("path", ""))
            value = parse_env_file(file.text, key)
        except NotFoundError as error:
            raise _config_error(f'cannot find the volume "{volume}" referenced by FileKeyRef') from error
        except (OSError, ValueError) as error:
            raise _config_error("couldn't parse env file") from error
        if value:
            return value
        if reference.get("optional"):
            return None
        raise _config_error(f'environment variable key "{key}" not found in file "{file.path}"')


def _config_error(message: str) -> PodSyncError:
    return PodSyncError(message, reason=CREATE_CONTAINER_CONFIG_ERROR)


def decode_secret(secret: v1.Secret) -> dict[str, str]:
    """Texts of a secret by key; bytes that are not UTF-8 become surrogate escapes.

    Raises:
        VkproviderError: A value is not base64; the API server never lets one in.
    """
    texts: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            texts[key] = base64.b64decode(value or "", validate=True).decode("utf-8", "surrogateescape")
        except binascii.Error as error:
            name = secret.get("metadata", {}).get("name", "")
            raise VkproviderError(f'secret "{name}" is damaged: the value of {key} is not base64') from error
    return texts


def parse_env_file(text: str, key: str) -> str:
    """Value of a variable in an environment file; empty when it is absent or assigned nothing.

    Lines read ``KEY='value'``: the value in single quotes, which may span lines, nothing but a comment after them, no blank before
    ``=``; a blank after ``=`` assigns nothing. Blank lines and ``#`` comments are skipped. Reading ends at the first assignment of
    the key, so errors behind it are not noticed.

    Raises:
        ValueError: The file breaks these rules; the message names the line.

    Source: env_util.go, ParseEnv.
    """
    lines = _split_lines(text)
    number = 0
    while number < len(lines):
        line = lines[number].lstrip(_BLANKS)
        number += 1
        if not line or line.startswith("#"):
            continue
        name, separator, value = line.partition("=")
        where = f"invalid environment variable format at line {number}"
        if not separator:
            raise ValueError(f"{where}: missing '='")
        if not name.rstrip(_BLANKS):
            raise ValueError(f"{where}: empty variable name")
        if name != name.rstrip(_BLANKS):
            raise ValueError(f"{where}: whitespace before '=' is not allowed")
        if value.startswith(tuple(_BLANKS)):
            if name == key:
                return ""
            continue
        if not value.startswith("'"):
            raise ValueError(f"{where}: value must be enclosed in single quotes")
        parts, rest, first = [], value[1:], number
        while "'" not in rest:
            parts.append(rest)
            if number >= len(lines):
                raise ValueError(f"invalid environment variable format starting at line {first}: unclosed single quote")
            rest = lines[number]
            number += 1
        last, _, trailer = rest.partition("'")
        trailer = trailer.lstrip(_BLANKS)
        if trailer and not trailer.startswith("#"):
            raise ValueError(
                f"invalid environment variable format at line {number}: unexpected content after closing quote"
            )
        if name == key:
            return "\n".join([*parts, last])
    return ""


def _split_lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if len(line.encode("utf-8", "surrogateescape")) >= _MAX_LINE_BYTES:
            raise ValueError(f"line {number} of the environment file is longer than {_MAX_LINE_BYTES} bytes")
    return [line.removesuffix("\r") for line in lines]
