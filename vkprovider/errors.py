"""Every error vkprovider raises on purpose.

The class says what a caller may do about it; the message says what happened, where, and what to do. ``reason`` is a
CamelCase word that is safe to show in a pod's status or in an event.

::

    VkproviderError
    ├── ConfigurationError          bad flag, file or environment; raised before anything starts
    ├── InvalidPodError             the pod can never work; not retried                          HTTP 400
    │   └── AdmissionError          refused by this node; ``reason`` is the kubelet's own
    ├── NotFoundError               a pod, container, sandbox, image or API object is not there  HTTP 404
    ├── ConflictError               exists already, or changed underneath                        HTTP 409
    ├── UnsupportedError            the provider lacks this ability                              HTTP 501
    ├── NodeNameTakenError          another live process runs a node of this name
    ├── TransientError              may work later; ``retry_after_s`` is a hint                  HTTP 503
    │   └── BackoffError            not tried yet: in CrashLoopBackOff or ImagePullBackOff
    ├── PodSyncError                one step of a pod failed; ``reason`` is the kubelet's own
    └── KubeAPIError                the API server answered with an error; ``status``, ``kube_reason``

Foreign exceptions (aiohttp, docker, kopf) are turned into these at the module that wraps the client.
"""

from __future__ import annotations

from typing import ClassVar


class VkproviderError(Exception):
    """Base of all errors raised by vkprovider on purpose.

    Args:
        message: What happened, where, and what to do about it.
        reason: CamelCase word for statuses and events; defaults to the class's own.
    """

    default_reason: ClassVar[str] = "InternalError"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason

    def __str__(self) -> str:
        return self.message


class ConfigurationError(VkproviderError):
    """A flag, a file or the environment is wrong; raised before anything starts."""

    default_reason = "InvalidConfiguration"


class InvalidPodError(VkproviderError):
    """The pod as written can never run here; it is not retried."""

    default_reason = "InvalidPod"
    http_status = 400


class AdmissionError(InvalidPodError):
    """This node refuses the pod; the reason is the kubelet's, e.g. ``OutOfcpu``.

    Source: kubelet pkg/kubelet/lifecycle, PodAdmitResult.
    """

    default_reason = "UnexpectedAdmissionError"


class NotFoundError(VkproviderError):
    """A pod, container, sandbox, image or API object does not exist."""

    default_reason = "NotFound"
    http_status = 404


class ConflictError(VkproviderError):
    """The thing exists already, or changed underneath."""

    default_reason = "Conflict"
    http_status = 409


class UnsupportedError(VkproviderError):
    """The provider does not have this ability."""

    default_reason = "NotSupported"
    http_status = 501


class NodeNameTakenError(VkproviderError):
    """Another live process already runs a node of this name."""

    default_reason = "NodeNameTaken"


class TransientError(VkproviderError):
    """It may work later.

    Args:
        message: What happened.
        reason: CamelCase word.
        retry_after_s: When to try again, in seconds from now; None leaves it to the caller's backoff.
    """

    default_reason = "Unavailable"
    http_status = 503

    def __init__(self, message: str, *, reason: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class BackoffError(TransientError):
    """Not tried yet: a container or image is in backoff for ``retry_after_s`` more seconds.

    Source: kubelet pkg/kubelet/container, NewBackoffError.
    """

    default_reason = "CrashLoopBackOff"


class PodSyncError(VkproviderError):
    """One step of starting a pod failed; ``reason`` is the waiting reason users know from the kubelet.

    Source: kubelet pkg/kubelet/container/sync_result.go and pkg/kubelet/images/types.go.
    """

    default_reason = "RunContainerError"


class KubeAPIError(VkproviderError):
    """The API server answered with an error.

    Args:
        message: The server's message, with the verb and the object.
        status: HTTP status code.
        kube_reason: ``reason`` of the Status object, e.g. ``AlreadyExists``; empty when there was none.
        retry_after_s: Value of the Retry-After header in seconds, if any.
    """

    default_reason = "APIServerError"
    http_status = 502

    def __init__(self, message: str, *, status: int, kube_reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kube_reason = kube_reason
        self.retry_after_s = retry_after_s

    @property
    def is_not_found(self) -> bool:
        """Whether the object does not exist (404)."""
        return self.status == 404

    @property
    def is_already_exists(self) -> bool:
        """Whether a create met an existing object."""
        return self.status == 409 and self.kube_reason == "AlreadyExists"

    @property
    def is_conflict(self) -> bool:
        """Whether a precondition (uid, resourceVersion) no longer holds."""
        return self.status == 409 and self.kube_reason != "AlreadyExists"

    @property
    def is_retriable(self) -> bool:
        """Whether the same request may work later: too many requests, server errors, timeouts."""
        return self.status in (408, 429) or self.status >= 500
