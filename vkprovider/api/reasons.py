"""Words that users and controllers read in statuses and events, in the kubelet's spelling.

Source: pkg/kubelet/events/event.go, pkg/kubelet/container/sync_result.go, pkg/kubelet/images/types.go,
pkg/kubelet/kuberuntime/kuberuntime_container.go.
"""

from __future__ import annotations

from typing import Final

# Waiting reasons of containers.
CONTAINER_CREATING: Final = "ContainerCreating"
POD_INITIALIZING: Final = "PodInitializing"
CRASH_LOOP_BACK_OFF: Final = "CrashLoopBackOff"
ERR_IMAGE_PULL: Final = "ErrImagePull"
IMAGE_PULL_BACK_OFF: Final = "ImagePullBackOff"
ERR_IMAGE_NEVER_PULL: Final = "ErrImageNeverPull"
INVALID_IMAGE_NAME: Final = "InvalidImageName"
IMAGE_INSPECT_ERROR: Final = "ImageInspectError"
CREATE_CONTAINER_CONFIG_ERROR: Final = "CreateContainerConfigError"
CREATE_CONTAINER_ERROR: Final = "CreateContainerError"
RUN_CONTAINER_ERROR: Final = "RunContainerError"
POST_START_HOOK_ERROR: Final = "PostStartHookError"

# Terminated reasons of containers.
COMPLETED: Final = "Completed"
ERROR: Final = "Error"
OOM_KILLED: Final = "OOMKilled"
CONTAINER_CANNOT_RUN: Final = "ContainerCannotRun"
CONTAINER_STATUS_UNKNOWN: Final = "ContainerStatusUnknown"

# Event types and reasons.
NORMAL: Final = "Normal"
WARNING: Final = "Warning"
EVENT_PULLING: Final = "Pulling"
EVENT_PULLED: Final = "Pulled"
EVENT_CREATED: Final = "Created"
EVENT_STARTED: Final = "Started"
EVENT_KILLING: Final = "Killing"
EVENT_FAILED: Final = "Failed"
EVENT_BACK_OFF: Final = "BackOff"
EVENT_INSPECT_FAILED: Final = "InspectFailed"
EVENT_FAILED_SANDBOX: Final = "FailedCreatePodSandBox"
EVENT_SANDBOX_CHANGED: Final = "SandboxChanged"
EVENT_FAILED_MOUNT: Final = "FailedMount"
EVENT_FAILED_SYNC: Final = "FailedSync"
EVENT_FAILED_KILL_POD: Final = "FailedKillPod"
EVENT_UNHEALTHY: Final = "Unhealthy"
EVENT_PROBE_WARNING: Final = "ProbeWarning"
EVENT_NETWORK_NOT_READY: Final = "NetworkNotReady"
EVENT_FAILED_POST_START_HOOK: Final = "FailedPostStartHook"
EVENT_FAILED_PRE_STOP_HOOK: Final = "FailedPreStopHook"
EVENT_UNSUPPORTED_FIELD: Final = "UnsupportedField"
"""Ours: the pod asks for something that this node leaves out; see docs/design/volumes.md."""
