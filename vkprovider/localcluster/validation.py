"""Validation of names, metadata and the simpler kinds, with the API server's complaints.

Source: staging/src/k8s.io/apimachinery/pkg/util/validation/validation.go, pkg/api/validation/objectmeta.go;
pkg/apis/*/validation.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.status import FieldError, field_forbidden, invalid, required

Object = dict[str, Any]

_LABEL_FMT: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_FMT: Final = rf"{_LABEL_FMT}(\.{_LABEL_FMT})*"
_VALUE_FMT: Final = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_QUALIFIED_FMT: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL: Final = re.compile(rf"{_LABEL_FMT}\Z")
_SUBDOMAIN: Final = re.compile(rf"{_SUBDOMAIN_FMT}\Z")
_VALUE: Final = re.compile(rf"{_VALUE_FMT}\Z")
_QUALIFIED: Final = re.compile(rf"{_QUALIFIED_FMT}\Z")
_LABEL_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_CONFIG_KEY: Final = re.compile(r"[-._a-zA-Z0-9]+\Z")
_ANNOTATION_BYTES: Final = 256 * 1024


def check_label_name(value: str) -> str | None:
    """Complaint about an RFC 1123 label, or None."""
    if len(value) > 63:
        return "must be no more than 63 characters"
    if not _LABEL.match(value):
        return (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
            f"'{_LABEL_FMT}')"
        )
    return None


def check_subdomain(value: str) -> str | None:
    """Complaint about an RFC 1123 subdomain, or None."""
    if len(value) > 253:
        return "must be no more than 253 characters"
    if not _SUBDOMAIN.match(value):
        return (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
            f"'{_LABEL_FMT}(\\.{_LABEL_FMT})*')"
        )
    return None


def check_path_segment(value: str) -> str | None:
    """Complaint about a name that only needs to be one path segment, or None."""
    if value in (".", ".."):
        return f"may not be '{value}'"
    for character in "/%":
        if character in value:
            return f"may not contain '{character}'"
    return None


def check_service_name(value: str) -> str | None:
    """Complaint about an RFC 1035 label, or None."""
    if len(value) > 63:
        return "must be no more than 63 characters"
    if not _LABEL_1035.match(value):
        return (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
            "validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        )
    return None


def check_qualified_name(value: str) -> str | None:
    """Complaint about a label key, annotation key or extended resource name, or None."""
    prefix, slash, name = value.rpartition("/")
    if slash and (not prefix or check_subdomain(prefix)):
        return "prefix part " + (check_subdomain(prefix) or "must be non-empty")
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 characters"
    if not _QUALIFIED.match(name):
        return (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            f"'{_QUALIFIED_FMT}')"
        )
    return None


def check_label_value(value: str) -> str | None:
    """Complaint about a label's value, or None."""
    if len(value) > 63:
        return "must be no more than 63 characters"
    if not _VALUE.match(value):
        return (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
            f"for validation is '{_VALUE_FMT}')"
        )
    return None


_NAME_CHECKS: Final = {
    "namespaces": check_label_name,
    "services": check_service_name,
    "roles.rbac.authorization.k8s.io": check_path_segment,
    "rolebindings.rbac.authorization.k8s.io": check_path_segment,
    "clusterroles.rbac.authorization.k8s.io": check_path_segment,
    "clusterrolebindings.rbac.authorization.k8s.io": check_path_segment,
}


def validate_labels(labels: Mapping[str, str] | None, path: str) -> list[FieldError]:
    """Complaints about label keys and values."""
    errors = []
    for key, value in (labels or {}).items():
        if detail := check_qualified_name(key):
            errors.append(invalid(path, key, detail))
        if detail := check_label_value(value):
            errors.append(invalid(path, value, detail))
    return errors


def validate_metadata(obj: Object, resource: Resource) -> list[FieldError]:
    """Complaints about the metadata of a new object."""
    metadata = obj["metadata"]
    errors: list[FieldError] = []
    check = _NAME_CHECKS.get(resource.key, check_subdomain)
    name = metadata.get("name", "")
    generate = metadata.get("generateName", "")
    if not name:
        errors.append(required("metadata.name", "name or generateName is required"))
    elif detail := check(name):
        errors.append(
            invalid(
                "metadata.generateName" if generate and name.startswith(generate) else "metadata.name", name, detail
            )
        )
    if resource.namespaced and not metadata.get("namespace"):
        errors.append(required("metadata.namespace"))
    errors += validate_labels(metadata.get("labels"), "metadata.labels")
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        if detail := check_qualified_name(key.lower()):
            errors.append(invalid("metadata.annotations", key, detail))
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATION_BYTES:
        errors.append(
            FieldError(
                "FieldValueTooLong", "metadata.annotations", f"Too long: may not be more than {_ANNOTATION_BYTES} bytes"
            )
        )
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        if detail := check_qualified_name(finalizer):
            errors.append(invalid(f"metadata.finalizers[{index}]", finalizer, detail))
    controllers = 0
    for owner in metadata.get("ownerReferences") or ():
        for key, what in (("apiVersion", "version "), ("kind", "kind "), ("name", "name "), ("uid", "")):
            if not owner.get(key):
                errors.append(invalid(f"metadata.ownerReferences.{key}", "", f"{what}must not be empty"))
        controllers += bool(owner.get("controller"))
    if controllers > 1:
        errors.append(invalid("metadata.ownerReferences", None, "Only one reference can have Controller set to true"))
    return errors


_IMMUTABLE: Final = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def validate_metadata_update(new: Object, old: Object) -> list[FieldError]:
    """Complaints about changes of metadata that may not change."""
    after, before = new["metadata"], old["metadata"]
    errors = [
        invalid(f"metadata.{key}", after.get(key), "field is immutable")
        for key in _IMMUTABLE
        if after.get(key) != before.get(key)
    ]
    if before.get("deletionTimestamp"):
        added = set(after.get("finalizers") or ()) - set(before.get("finalizers") or ())
        if added:
            errors.append(
                field_forbidden(
                    "metadata.finalizers",
                    "no new finalizers can be added if the object is being deleted, found new finalizers "
                    f"[]string{{{', '.join(_quote(name) for name in sorted(added))}}}",
                )
            )
    return errors


def _quote(text: str) -> str:
    return f'"{text}"'


def validate_kind(obj: Object, resource: Resource) -> list[FieldError]:
    """Complaints about the simpler kinds; pods and templates are in ``podvalidation``."""
    errors: list[FieldError] = []
    spec = obj.get("spec") or {}
    match resource.key:
        case "configmaps" | "secrets":
            detail = (
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
                "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            )
            keys = [*(obj.get("data") or {}), *(obj.get("binaryData") or {})]
            errors += [invalid(f"data[{k}]", k, detail) for k in keys if not _CONFIG_KEY.match(k) or len(k) > 253]
        case "events":
            errors += _validate_event(obj)
        case "services":
            if spec.get("type") != "ExternalName" and not spec.get("ports") and spec.get("clusterIP") != "None":
                errors.append(required("spec.ports"))
            for index, port in enumerate(spec.get("ports") or ()):
                if not 1 <= port.get("port", 0) <= 65535:
                    errors.append(
                        invalid(
                            f"spec.ports[{index}].port", port.get("port", 0), "must be between 1 and 65535, inclusive"
                        )
                    )
                if len(spec["ports"]) > 1 and not port.get("name"):
                    errors.append(required(f"spec.ports[{index}].name"))
        case "deployments.apps" | "replicasets.apps" | "daemonsets.apps" | "statefulsets.apps":
            errors += _validate_selector(spec)
        case "certificatesigningrequests.certificates.k8s.io":
            for key in ("request", "signerName", "usages"):
                if not spec.get(key):
                    errors.append(required(f"spec.{key}"))
            if spec.get("request") and not _is_csr(spec["request"]):
                errors.append(invalid("spec.request", spec["request"], "PEM block type must be CERTIFICATE REQUEST"))
        case "leases.coordination.k8s.io":
            duration = spec.get("leaseDurationSeconds")
            if duration is not None and duration <= 0:
                errors.append(invalid("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    if (spec.get("replicas") or 0) < 0:
        errors.append(invalid("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    return errors


def _validate_event(obj: Object) -> list[FieldError]:
    """Source: pkg/apis/core/validation/events.go, legacyValidateEvent."""
    errors: list[FieldError] = []
    namespace = obj["metadata"].get("namespace", "")
    about = (obj.get("involvedObject") or {}).get("namespace", "")
    is_new = bool(obj.get("eventTime"))
    homes = ("default", "kube-system") if is_new else ("default",)
    if namespace not in homes if not about else (not is_new and about != namespace):
        errors.append(invalid("involvedObject.namespace", about, "does not match event.namespace"))
    if is_new:
        keys = ("reportingComponent", "reportingInstance", "action", "reason")
        errors += [required(key) for key in keys if not obj.get(key)]
        if len(obj.get("message", "")) > 1024:
            errors.append(invalid("message", "", "can have at most 1024 characters"))
    return errors


def _is_csr(request: str) -> bool:
    try:
        return base64.b64decode(request).lstrip().startswith(b"-----BEGIN CERTIFICATE REQUEST-----")
    except ValueError:
        return False


def _validate_selector(spec: Object) -> list[FieldError]:
    selector = spec.get("selector")
    if not selector:
        return [required("spec.selector")]
    labels = spec.get("template", {}).get("metadata", {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return [invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")]
    return []


_IMMUTABLE_FIELDS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "deployments.apps": (("spec", "selector"),),
    "replicasets.apps": (("spec", "selector"),),
    "daemonsets.apps": (("spec", "selector"),),
    "jobs.batch": (("spec", "selector"), ("spec", "template"), ("spec", "completionMode")),
    "priorityclasses.scheduling.k8s.io": (("value",), ("preemptionPolicy",)),
    "rolebindings.rbac.authorization.k8s.io": (("roleRef",),),
    "clusterrolebindings.rbac.authorization.k8s.io": (("roleRef",),),
    "runtimeclasses.node.k8s.io": (("handler",),),
    "secrets": (("type",),),
    "storageclasses.storage.k8s.io": (("provisioner",), ("parameters",), ("reclaimPolicy",)),
}


def validate_kind_update(new: Object, old: Object, resource: Resource) -> list[FieldError]:
    """Complaints about changes that a kind forbids; pods are in ``podvalidation``."""
    errors = []
    for path in _IMMUTABLE_FIELDS.get(resource.key, ()):
        before, after = _dig(old, path), _dig(new, path)
        if before != after and not (resource.key == "jobs.batch" and old.get("spec", {}).get("suspend")):
            errors.append(invalid(".".join(path), after, "field is immutable"))
    if resource.key in ("configmaps", "secrets") and old.get("immutable"):
        changed = any(new.get(key) != old.get(key) for key in ("data", "binaryData", "immutable"))
        if changed:
            errors.append(field_forbidden("data", "field is immutable when `immutable` is set"))
    cluster_ip = _dig(old, ("spec", "clusterIP"))
    if resource.key == "services" and cluster_ip and cluster_ip != _dig(new, ("spec", "clusterIP")):
        errors.append(invalid("spec.clusterIP", _dig(new, ("spec", "clusterIP")), "may not change once set"))
    return errors


def _dig(obj: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj
