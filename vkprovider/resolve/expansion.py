"""``$(VAR)`` references in commands, arguments, values and sub-paths.

Source: third_party/forked/golang/expansion/expand.go; pkg/kubelet/container/helpers.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from vkprovider.api import v1
from vkprovider.api.reasons import CREATE_CONTAINER_CONFIG_ERROR
from vkprovider.errors import PodSyncError

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, *mappings: Mapping[str, str]) -> str:
    """Replace references by values, once: values are not expanded again.

    ``$(NAME)`` becomes the value in the first mapping that has it and stays as written when none has; ``$$`` becomes ``$``, so
    ``$$(NAME)`` gives ``$(NAME)``; anything else after ``$`` is left alone.

    Args:
        text: What to expand.
        mappings: Values by name, the first that knows a name wins.

    Source: expand.go, Expand and MappingFuncFor.
    """

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        for mapping in mappings:
            if name in mapping:
                return mapping[name]
        return match.group(0)

    return _REFERENCE.sub(replace, text) if "$" in text else text


def expand_all(texts: Iterable[str] | None, *mappings: Mapping[str, str]) -> tuple[str, ...]:
    """``expand`` for each word of a command; empty for None.

    Source: helpers.go, ExpandContainerCommandAndArgs.
    """
    return tuple(expand(text, *mappings) for text in texts or ())


def static_environment(container: v1.Container) -> dict[str, str]:
    """The variables of a container as written, without resolving or expanding any: all that a probe's command sees.

    Source: helpers.go, ExpandContainerCommandOnlyStatic.
    """
    return {variable["name"]: variable.get("value", "") for variable in container.get("env") or ()}


def expand_sub_path(expression: str, environment: Mapping[str, str]) -> str:
    """Value of a ``subPathExpr``; here every variable must have a value.

    Raises:
        PodSyncError: A variable is undefined or empty (reason ``CreateContainerConfigError``).

    Source: helpers.go, ExpandContainerVolumeMounts.
    """
    missing = {
        match.group(1)
        for match in _REFERENCE.finditer(expression)
        if match.group(1) is not None and not environment.get(match.group(1))
    }
    if missing:
        names = ", ".join(sorted(missing))
        raise PodSyncError(f"missing value for {names}", reason=CREATE_CONTAINER_CONFIG_ERROR)
    return expand(expression, environment)
