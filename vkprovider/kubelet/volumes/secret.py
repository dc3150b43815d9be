"""Volumes of kind ``secret``.

Source: pkg/volume/secret.
"""

from __future__ import annotations

from typing import ClassVar

from vkprovider.kubelet.volumes.payload import PayloadPlugin


class SecretPlugin(PayloadPlugin):
    """The files of a secret; on a tmpfs."""

    kind: ClassVar[str] = "secret"
    word: ClassVar[str] = "secret"
