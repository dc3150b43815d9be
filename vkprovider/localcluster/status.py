"""The API server's errors: Status objects with the wording that clients and people know.

Source: staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go, pkg/util/validation/field/errors.go.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vkprovider.errors import VkproviderError


class APIStatusError(VkproviderError):
    """An answer that is a failure Status.

    Args:
        code: HTTP status.
        reason: ``reason`` of the Status, e.g. ``NotFound``.
        message: Text for people.
        details: ``details`` of the Status.
    """

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, reason=reason or "Unknown")
        self.code = code
        self.kube_reason = reason
        self.details = details

    def to_status(self) -> dict[str, Any]:
        """The Status object."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.kube_reason:
            status["reason"] = self.kube_reason
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.code
        return status


@dataclass(frozen=True, slots=True)
class FieldError:
    """One complaint about one field.

    Attributes:
        type: Cause type: ``FieldValueRequired``, ``FieldValueInvalid``, ``FieldValueForbidden`` and so on.
        field: Path, e.g. ``spec.containers[0].image``.
        body: Text without the path, e.g. ``Required value``.
    """

    type: str
    field: str
    body: str

    def __str__(self) -> str:
        return f"{self.field}: {self.body}"


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def required(path: str, detail: str = "") -> FieldError:
    """The field must be given."""
    return FieldError("FieldValueRequired", path, "Required value" + (f": {detail}" if detail else ""))


def invalid(path: str, value: Any, detail: str) -> FieldError:
    """The value is malformed."""
    return FieldError("FieldValueInvalid", path, f"Invalid value: {_show(value)}: {detail}")


def duplicate(path: str, value: Any) -> FieldError:
    """The value must be unique and is not."""
    return FieldError("FieldValueDuplicate", path, f"Duplicate value: {_show(value)}")


def not_supported(path: str, value: Any, supported: Sequence[str]) -> FieldError:
    """The value is not one of the allowed ones."""
    choices = ", ".join(_show(choice) for choice in supported)
    return FieldError("FieldValueNotSupported", path, f"Unsupported value: {_show(value)}: supported values: {choices}")


def field_forbidden(path: str, detail: str) -> FieldError:
    """The field may not be set or changed."""
    return FieldError("FieldValueForbidden", path, f"Forbidden: {detail}")


def field_not_found(path: str, value: Any) -> FieldError:
    """The value names something that does not exist."""
    return FieldError("FieldValueNotFound", path, f"Not found: {_show(value)}")


def _details(name: str = "", group: str = "", kind: str = "", **more: Any) -> dict[str, Any]:
    pairs = {"name": name, "group": group, "kind": kind, **more}
    return {key: value for key, value in pairs.items() if value}


def qualify(plural: str, group: str) -> str:
    """``deployments.apps``, or ``pods`` in the core group."""
    return f"{plural}.{group}" if group else plural


def not_found(plural: str, group: str, name: str) -> APIStatusError:
    """404: the object does not exist."""
    return APIStatusError(
        404, "NotFound", f'{qualify(plural, group)} "{name}" not found', _details(name, group, plural)
    )


def already_exists(plural: str, group: str, name: str) -> APIStatusError:
    """409: the name is taken."""
    return APIStatusError(
        409, "AlreadyExists", f'{qualify(plural, group)} "{name}" already exists', _details(name, group, plural)
    )


def conflict(plural: str, group: str, name: str, detail: str) -> APIStatusError:
    """409: a precondition does not hold."""
    message = f'Operation cannot be fulfilled on {qualify(plural, group)} "{name}": {detail}'
    return APIStatusError(409, "Conflict", message, _details(name, group, plural))


OPTIMISTIC_LOCK = "the object has been modified; please apply your changes to the latest version and try again"


def invalid_object(kind: str, group: str, name: str, errors: Sequence[FieldError]) -> APIStatusError:
    """422: validation failed; all complaints are listed."""
    texts = list(dict.fromkeys(str(error) for error in errors))
    joined = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    causes = [{"reason": error.type, "message": error.body, "field": error.field} for error in errors]
    message = f'{qualify(kind, group)} "{name}" is invalid: {joined}'
    return APIStatusError(422, "Invalid", message, _details(name, group, kind, causes=causes))


def forbidden(
    plural: str, group: str, name: str, detail: str, causes: list[dict[str, str]] | None = None
) -> APIStatusError:
    """403: refused by admission or authorization."""
    target = qualify(plural, group) + (f' "{name}"' if name else "")
    return APIStatusError(
        403, "Forbidden", f"{target} is forbidden: {detail}", _details(name, group, plural, causes=causes)
    )


def bad_request(message: str) -> APIStatusError:
    """400: the request makes no sense."""
    return APIStatusError(400, "BadRequest", message)


def unauthorized() -> APIStatusError:
    """401: no known credentials."""
    return APIStatusError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> APIStatusError:
    """405: the resource does not have this verb."""
    return APIStatusError(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {}
    )


def resource_not_found() -> APIStatusError:
    """404: there is no such resource."""
    return APIStatusError(404, "NotFound", "the server could not find the requested resource", {})


def unsupported_media_type(accepted: Sequence[str]) -> APIStatusError:
    """415: the body's type is unknown."""
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return APIStatusError(415, "UnsupportedMediaType", message)


def expired(message: str) -> APIStatusError:
    """410: the resource version or continue token is too old."""
    return APIStatusError(410, "Expired", message)


def internal_error(message: str) -> APIStatusError:
    """500: our own fault, or a neighbour's."""
    return APIStatusError(
        500,
        "InternalError",
        f"Internal error occurred: {message}",
        {"causes": [{"message": message}]},
    )


def too_many_requests(message: str, retry_after_s: int, causes: list[dict[str, str]] | None = None) -> APIStatusError:
    """429: come again in ``retry_after_s`` seconds."""
    details: dict[str, Any] = {"causes": causes} if causes else {}
    if retry_after_s:
        details["retryAfterSeconds"] = retry_after_s
    return APIStatusError(429, "TooManyRequests", message, details)
