"""Who asks: the identity behind a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

AUTHENTICATED: Final = "system:authenticated"
UNAUTHENTICATED: Final = "system:unauthenticated"
MASTERS: Final = "system:masters"
NODES: Final = "system:nodes"
NODE_USER_PREFIX: Final = "system:node:"


@dataclass(frozen=True, slots=True)
class User:
    """A user, as ``authentication.k8s.io`` describes one.

    Attributes:
        name: User name, e.g. ``system:node:a``.
        groups: Groups, with ``system:authenticated`` among them for everyone known.
        uid: UID of a service account, else empty.
        extra: Further attributes, each a list of texts.
    """

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_object(self) -> dict[str, Any]:
        """The ``UserInfo`` object."""
        info: dict[str, Any] = {"username": self.name}
        if self.uid:
            info["uid"] = self.uid
        if self.groups:
            info["groups"] = list(self.groups)
        if self.extra:
            info["extra"] = {key: list(values) for key, values in self.extra.items()}
        return info


ANONYMOUS: Final = User("system:anonymous", (UNAUTHENTICATED,))
CLUSTER: Final = User("system:apiserver", (MASTERS, AUTHENTICATED))
"""The local cluster itself, when its own controllers write."""
