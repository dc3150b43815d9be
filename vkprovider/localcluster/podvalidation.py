"""Validation of pods and pod templates.

Source: pkg/apis/core/validation/validation.go, ValidatePodSpec, ValidatePodUpdate.
"""

from __future__ import annotations

import re
from typing import Any, Final

from vkprovider.api.quantity import parse_quantity
from vkprovider.localcluster.podspec import iter_spec_containers
from vkprovider.localcluster.status import (
    FieldError,
    duplicate,
    field_forbidden,
    field_not_found,
    invalid,
    not_supported,
    required,
)
from vkprovider.localcluster.validation import check_label_name, check_qualified_name, check_subdomain, validate_labels

Object = dict[str, Any]
_PORT_NAME: Final = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_ENV_NAME: Final = re.compile(r"[ -<>-~]+\Z")
_ORDER: Final = ("containers", "initContainers", "ephemeralContainers")
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")


def validate_pod_spec(spec: Object, path: str = "spec", *, is_pod: bool = True) -> list[FieldError]:
    """Complaints about a defaulted pod spec."""
    errors: list[FieldError] = []
    volumes = _validate_volumes(spec, f"{path}.volumes", errors)
    if not spec.get("containers"):
        errors.append(required(f"{path}.containers"))
    if is_pod and spec.get("ephemeralContainers"):
        errors.append(field_forbidden(f"{path}.ephemeralContainers", "cannot be set on create"))
    names: set[str] = set()
    containers = sorted(iter_spec_containers(spec), key=lambda item: _ORDER.index(item[0]))
    for field, index, container in containers:
        where = f"{path}.{field}[{index}]"
        _validate_container(container, where, names, volumes, errors, kind=field)
        if spec.get("hostNetwork"):
            _validate_host_ports(container, where, errors)
    _choice(spec, "restartPolicy", ("Always", "OnFailure", "Never"), path, errors)
    _choice(spec, "dnsPolicy", ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"), path, errors)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and deadline < 1:
        errors.append(invalid(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive"))
    for key, check in (("nodeName", check_subdomain), ("serviceAccountName", check_subdomain), ("hostname", check_label_name), ("subdomain", check_label_name)):  # fmt: skip
        value = spec.get(key)
        if value and (detail := check(value)):
            errors.append(invalid(f"{path}.{key}", value, detail))
    _validate_security(spec.get("securityContext") or {}, f"{path}.securityContext", errors)
    errors += validate_labels(spec.get("nodeSelector"), f"{path}.nodeSelector")
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        _validate_toleration(toleration, f"{path}.tolerations[{index}]", errors)
    return errors


def _choice(holder: Object, key: str, allowed: tuple[str, ...], path: str, errors: list[FieldError]) -> None:
    value = holder.get(key)
    if value and value not in allowed:
        errors.append(not_supported(f"{path}.{key}", value, allowed))


def _validate_toleration(toleration: Object, path: str, errors: list[FieldError]) -> None:
    key, operator = toleration.get("key"), toleration.get("operator") or "Equal"
    if key and (detail := check_qualified_name(key)):
        errors.append(invalid(f"{path}.key", key, detail))
    if not key and operator != "Exists":
        errors.append(
            invalid(
                f"{path}.operator",
                operator,
                'operator must be Exists when `key` is empty, which means "match all values and all keys"',
            )
        )
    if operator not in ("Equal", "Exists"):
        errors.append(not_supported(f"{path}.operator", operator, ("Equal", "Exists")))
    if operator == "Exists" and toleration.get("value"):
        errors.append(invalid(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'"))
    if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
        errors.append(
            invalid(
                f"{path}.effect",
                toleration.get("effect", ""),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            )
        )
    _choice(toleration, "effect", ("NoSchedule", "PreferNoSchedule", "NoExecute"), path, errors)


def _validate_volumes(spec: Object, path: str, errors: list[FieldError]) -> set[str]:
    names: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        name = volume.get("name", "")
        if not name:
            errors.append(required(f"{path}[{index}].name"))
        elif detail := check_label_name(name):
            errors.append(invalid(f"{path}[{index}].name", name, detail))
        elif name in names:
            errors.append(duplicate(f"{path}[{index}].name", name))
        names.add(name)
        kinds = [key for key in volume if key != "name"]
        if len(kinds) > 1:
            errors.append(field_forbidden(f"{path}[{index}].{kinds[1]}", "may not specify more than 1 volume type"))
        for position, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
            lifetime = (source.get("serviceAccountToken") or {}).get("expirationSeconds", 3600)
            if lifetime < 600:
                where = f"{path}[{index}].projected.sources[{position}].serviceAccountToken.expirationSeconds"
                errors.append(invalid(where, lifetime, "may not specify a duration less than 10 minutes"))
        for kind, key in (("hostPath", "path"), ("secret", "secretName"), ("configMap", "name"), ("persistentVolumeClaim", "claimName")):  # fmt: skip
            if kind in volume and not volume[kind].get(key):
                errors.append(required(f"{path}[{index}].{kind}.{key}"))
    return names


def _validate_container(
    container: Object, path: str, names: set[str], volumes: set[str], errors: list[FieldError], *, kind: str
) -> None:
    name = container.get("name", "")
    if not name:
        errors.append(required(f"{path}.name"))
    elif detail := check_label_name(name):
        errors.append(invalid(f"{path}.name", name, detail))
    image = container.get("image", "")
    if not image:
        errors.append(required(f"{path}.image"))
    elif image.strip() != image:
        errors.append(invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    _validate_ports(container, path, errors)
    _validate_env(container, path, errors)
    _validate_mounts(container, path, volumes, errors)
    _choice(container, "imagePullPolicy", ("Always", "IfNotPresent", "Never"), path, errors)
    _choice(container, "terminationMessagePolicy", ("FallbackToLogsOnError", "File"), path, errors)
    _validate_resources(container.get("resources") or {}, f"{path}.resources", errors)
    _validate_security(container.get("securityContext") or {}, f"{path}.securityContext", errors)
    if kind == "ephemeralContainers":
        given = [key for key in _NOT_EPHEMERAL if container.get(key)]
        errors += [field_forbidden(f"{path}.{key}", "cannot be set for an Ephemeral Container") for key in given]
    if name and name in names:
        errors.append(duplicate(f"{path}.name", name))
    names.add(name)
    for hook, action in (container.get("lifecycle") or {}).items():
        if hook in ("postStart", "preStop") and isinstance(action, dict):
            _validate_handler(action, f"{path}.lifecycle.{hook}", errors)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            _validate_probe(container[probe], f"{path}.{probe}", probe, errors)
            if kind == "initContainers" and container.get("restartPolicy") != "Always":
                errors.append(
                    field_forbidden(
                        f"{path}.{probe}", "may not be set for init containers without restartPolicy=Always"
                    )
                )


def _validate_env(container: Object, path: str, errors: list[FieldError]) -> None:
    for index, variable in enumerate(container.get("env") or ()):
        where = f"{path}.env[{index}]"
        if not variable.get("name"):
            errors.append(required(f"{where}.name"))
        elif not _ENV_NAME.match(variable["name"]):
            detail = "a valid environment variable name must consist only of printable ASCII characters other than '='"
            errors.append(invalid(f"{where}.name", variable["name"], detail))
        if variable.get("value") and variable.get("valueFrom"):
            errors.append(invalid(f"{where}.valueFrom", "", "may not be specified when `value` is not empty"))


def _validate_mounts(container: Object, path: str, volumes: set[str], errors: list[FieldError]) -> None:
    mounts: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{path}.volumeMounts[{index}]"
        if not mount.get("name"):
            errors.append(required(f"{where}.name"))
        elif mount["name"] not in volumes:
            errors.append(field_not_found(f"{where}.name", mount["name"]))
        target = mount.get("mountPath", "")
        if not target:
            errors.append(required(f"{where}.mountPath"))
        elif target in mounts:
            errors.append(invalid(f"{where}.mountPath", target, "must be unique"))
        mounts.add(target)


def _validate_ports(container: Object, path: str, errors: list[FieldError]) -> None:
    names: set[str] = set()
    for index, port in enumerate(container.get("ports") or ()):
        where = f"{path}.ports[{index}]"
        name = port.get("name")
        if name:
            if not _PORT_NAME.match(name) or len(name) > 15 or "--" in name:
                errors.append(
                    invalid(
                        f"{where}.name", name, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
                    )
                )
            elif name in names:
                errors.append(duplicate(f"{where}.name", name))
            names.add(name)
        number = port.get("containerPort", 0)
        if not number:
            errors.append(required(f"{where}.containerPort"))
        elif not 1 <= number <= 65535:
            errors.append(invalid(f"{where}.containerPort", number, "must be between 1 and 65535, inclusive"))
        host_port = port.get("hostPort", 0)
        if host_port and not 1 <= host_port <= 65535:
            errors.append(invalid(f"{where}.hostPort", host_port, "must be between 1 and 65535, inclusive"))
        _choice(port, "protocol", ("SCTP", "TCP", "UDP"), where, errors)


def _validate_host_ports(container: Object, path: str, errors: list[FieldError]) -> None:
    for index, port in enumerate(container.get("ports") or ()):
        if port.get("hostPort") != port.get("containerPort"):
            detail = "must match `containerPort` when `hostNetwork` is true"
            errors.append(invalid(f"{path}.ports[{index}].hostPort", port.get("hostPort", 0), detail))


def _validate_security(context: Object, path: str, errors: list[FieldError]) -> None:
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        value = context.get(key)
        if value is not None and not 0 <= value <= 2**31 - 1:
            errors.append(invalid(f"{path}.{key}", value, "must be between 0 and 2147483647, inclusive"))
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        errors.append(invalid(path, context, detail))


def _validate_handler(action: Object, path: str, errors: list[FieldError]) -> None:
    found = [key for key in _HANDLERS if key in action]
    if not found:
        errors.append(required(path, "must specify a handler type"))
    errors += [field_forbidden(f"{path}.{extra}", "may not specify more than 1 handler type") for extra in found[1:]]
    for key in ("httpGet", "tcpSocket"):
        if key in action:
            port = action[key].get("port")
            if port in (None, 0, ""):
                errors.append(invalid(f"{path}.{key}.port", port or 0, "must be between 1 and 65535, inclusive"))
    if "exec" in action and not action["exec"].get("command"):
        errors.append(required(f"{path}.exec.command"))


def _validate_probe(probe: Object, path: str, kind: str, errors: list[FieldError]) -> None:
    _validate_handler(probe, path, errors)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        value = probe.get(key, 0)
        if value < 0:
            errors.append(invalid(f"{path}.{key}", value, "must be greater than or equal to 0"))
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        errors.append(invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1"))


def _validate_resources(resources: Object, path: str, errors: list[FieldError]) -> None:
    limits = resources.get("limits") or {}
    for side in ("limits", "requests"):
        for name, amount in (resources.get(side) or {}).items():
            if parse_quantity(amount) < parse_quantity("0"):
                errors.append(invalid(f"{path}.{side}[{name}]", amount, "must be greater than or equal to 0"))
            if (
                "/" not in name
                and name not in ("cpu", "memory", "ephemeral-storage")
                and not name.startswith("hugepages-")
            ):
                errors.append(
                    invalid(f"{path}.{side}[{name}]", name, "must be a standard resource type or fully qualified")
                )
    for name, amount in (resources.get("requests") or {}).items():
        limit = limits.get(name)
        if limit is not None and parse_quantity(amount) > parse_quantity(limit):
            errors.append(invalid(f"{path}.requests", amount, f"must be less than or equal to {name} limit of {limit}"))


def _without_seconds(toleration: Object) -> Object:
    return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}


_NOT_EPHEMERAL: Final = ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources")
_MUTABLE_CONTAINER: Final = ("image",)


def _frozen(spec: Object) -> Object:
    """The spec without what an update may change."""
    kept = {
        key: value
        for key, value in spec.items()
        if key not in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")
    }
    for field in ("containers", "initContainers"):
        if field in kept:
            kept[field] = [{k: v for k, v in c.items() if k not in _MUTABLE_CONTAINER} for c in kept[field]]
    return kept


def validate_pod_update(new: Object, old: Object) -> list[FieldError]:
    """Complaints about changes of a pod's spec; only images, deadline and more tolerations may change."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    errors: list[FieldError] = []
    if [c.get("name") for c in after.get("containers") or ()] != [
        c.get("name") for c in before.get("containers") or ()
    ]:
        return [field_forbidden("spec.containers", "pod updates may not add or remove containers")]
    for field, index, container in iter_spec_containers(after):
        if not container.get("image"):
            errors.append(required(f"spec.{field}[{index}].image"))
    given = after.get("tolerations") or []
    kept = [_without_seconds(item) for item in given]
    if any(_without_seconds(item) not in kept for item in before.get("tolerations") or ()):
        errors.append(
            field_forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
        )
    old_deadline, new_deadline = before.get("activeDeadlineSeconds"), after.get("activeDeadlineSeconds")
    if old_deadline is not None and (new_deadline is None or new_deadline > old_deadline):
        errors.append(
            invalid("spec.activeDeadlineSeconds", new_deadline, "must be less than or equal to previous value")
            if new_deadline is not None
            else invalid(
                "spec.activeDeadlineSeconds", new_deadline, "must not update from a positive integer to nil value"
            )
        )
    gates = [gate for gate in after.get("schedulingGates") or () if gate not in (before.get("schedulingGates") or ())]
    if gates:
        errors.append(
            field_forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate")
        )
    grace_changed = after.get("terminationGracePeriodSeconds") != before.get("terminationGracePeriodSeconds")
    if _frozen(after) != _frozen(before) or grace_changed:
        errors.append(
            field_forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
                "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
                "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
            )
        )
    return errors
