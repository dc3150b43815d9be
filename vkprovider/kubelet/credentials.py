"""Credentials for registries: Docker's configuration forms, and which of them fit an image.

Source: pkg/credentialprovider/config.go, keyring.go, secrets/secrets.go.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from vkprovider.api import v1
from vkprovider.provider import cri

logger = logging.getLogger(__name__)

DEFAULT_REGISTRY_HOST: Final = "index.docker.io"
MAX_CONFIG_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credential:
    """Credentials for what lies under ``location`` (``host[:port][/path]``; each part of the host may be a glob)."""

    location: str
    auth: cri.AuthConfig
    secret: str = ""
    """``namespace/name`` of the pod's secret it comes from; empty for the node's own."""


class Keyring:
    """Credentials ordered so that the most specific place comes first.

    Args:
        credentials: In order of preference among those for equal places.
    """

    def __init__(self, credentials: Iterable[Credential] = ()) -> None:
        self._credentials = sorted(credentials, key=lambda credential: credential.location, reverse=True)

    def __bool__(self) -> bool:
        return bool(self._credentials)

    def lookup(self, repository: str) -> list[Credential]:
        """All credentials that fit an image, each of which may be tried.

        Args:
            repository: Full name of the image's repository, e.g. ``docker.io/library/busybox``.
        """
        found = [c for c in self._credentials if matches_location(c.location, repository)]
        if found or not _is_default_registry(repository):
            return found
        return [c for c in self._credentials if c.location == DEFAULT_REGISTRY_HOST]


def matches_location(pattern: str, target: str) -> bool:
    """Whether the target lies under the pattern: same port, host parts equal or globbed, path a prefix.

    Source: keyring.go, URLsMatch.
    """
    pattern_host, _, pattern_path = pattern.partition("/")
    target_host, _, target_path = target.partition("/")
    pattern_name, _, pattern_port = pattern_host.partition(":")
    target_name, _, target_port = target_host.partition(":")
    if pattern_port != target_port or not target_path.startswith(pattern_path):
        return False
    pattern_parts, target_parts = pattern_name.split("."), target_name.split(".")
    return len(pattern_parts) == len(target_parts) and all(
        fnmatch.fnmatchcase(part, glob) for part, glob in zip(target_parts, pattern_parts, strict=True)
    )


def _is_default_registry(repository: str) -> bool:
    first, separator, _ = repository.partition("/")
    if not first:
        return False
    return not separator or first in ("docker.io", DEFAULT_REGISTRY_HOST) or not re.search(r"[.:]", first)


def parse_docker_config(data: bytes, *, legacy: bool, secret: str = "") -> list[Credential]:
    """Credentials of a ``config.json`` (``{"auths": {…}}``), or of a ``.dockercfg`` if ``legacy``.

    Args:
        data: The file.
        legacy: Whether it is the older form.
        secret: ``namespace/name`` of the secret it comes from.

    Raises:
        ValueError: Not such a file; the message holds nothing of its contents.
    """
    try:
        decoded: Any = json.loads(data)
        entries = decoded if legacy else decoded.get("auths") or {}
        return [_make_credential(location, entry, secret) for location, entry in entries.items()]
    except (ValueError, AttributeError, TypeError, binascii.Error):
        # From None: the text of the error may quote a password.
        raise ValueError("the Docker configuration is not valid JSON of the expected form") from None


def _make_credential(location: str, entry: Mapping[str, Any], secret: str) -> Credential:
    username, password = entry.get("username") or "", entry.get("password") or ""
    if entry.get("auth"):
        text = base64.b64decode(str(entry["auth"]).strip(), validate=False).decode()
        username, separator, password = text.partition(":")
        if not separator:
            raise ValueError("auth is not user:password")
        password = password.rstrip("\x00")
    place = normalize_location(location)
    return Credential(
        place,
        cri.AuthConfig(
            username=username,
            password=password,
            server_address=place,
            identity_token=entry.get("identitytoken") or "",
            registry_token=entry.get("registrytoken") or "",
        ),
        secret,
    )


def normalize_location(location: str) -> str:
    """``host[:port][/path]`` of an entry's key: without scheme, and without the API version of old keys.

    Source: keyring.go, BasicDockerKeyring.Add.
    """
    if not location.startswith(("https://", "http://")):
        location = f"https://{location}"
    parts = urlsplit(location)
    path = parts.path[3:] if parts.path.startswith(("/v1/", "/v2/")) else parts.path
    return parts.netloc + ("" if path == "/" else path)


def read_pull_secret(secret: v1.Secret) -> list[Credential]:
    """Credentials of an image pull secret of either type; empty for other types.

    Raises:
        ValueError: Its contents are not valid.
    """
    meta, data = secret["metadata"], secret.get("data") or {}
    name = f"{meta.get('namespace', '')}/{meta.get('name', '')}"
    for kind, key, legacy in (
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson", False),
        ("kubernetes.io/dockercfg", ".dockercfg", True),
    ):
        if secret.get("type") == kind and data.get(key):
            return parse_docker_config(base64.b64decode(data[key]), legacy=legacy, secret=name)
    return []


def node_config_paths(root_dir: Path) -> Sequence[tuple[Path, bool]]:
    """Files that may hold the node's own credentials, with whether each is in the older form; the first that is there counts.

    Source: pkg/credentialprovider/config.go, DefaultDockerConfigJSONPaths, DefaultDockercfgPaths.
    """
    home = Path(os.environ.get("HOME") or "/")
    folders = (root_dir, Path.cwd(), home / ".docker", Path("/.docker"))
    legacy_folders = (root_dir, Path.cwd(), home, Path("/"))
    return [(folder / "config.json", False) for folder in folders] + [
        (folder / ".dockercfg", True) for folder in legacy_folders
    ]


def read_node_credentials(root_dir: Path) -> list[Credential]:
    """The node's own credentials; a file that cannot be used is left out with a warning. Blocks on files."""
    for path, legacy in node_config_paths(root_dir):
        try:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                data = file.read(MAX_CONFIG_BYTES)
            found = parse_docker_config(data, legacy=legacy)
        except (OSError, ValueError) as error:
            logger.warning("Cannot use the Docker configuration", extra={"path": str(path), "error": str(error)})
            continue
        if found:
            return found
    return []
