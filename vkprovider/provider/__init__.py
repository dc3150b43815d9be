"""The contracts between the node and what runs its pods.

Implement ``PodProvider`` to run whole pods, or ``ContainerRuntime`` to run containers and get kubelet behaviour from the
library; add the abilities of ``vkprovider.provider.capabilities`` that your backend has; name a ``ProviderFactory`` under
the entry-point group ``vkprovider.providers``.
"""

from __future__ import annotations

from vkprovider.provider import cri as cri
from vkprovider.provider.capabilities import (
    AttachCapability,
    ExecCapability,
    LogOptions,
    LogsCapability,
    NodeDescription,
    NodeStatusCapability,
    PodUsage,
    PortForwardCapability,
    ProbingCapability,
    ResourceAccountingCapability,
    ResourceUsage,
    StatsCapability,
    VolumesCapability,
)
from vkprovider.provider.container_runtime import (
    ContainerRuntime,
    HostInfo,
    HostResources,
    ImageService,
    RuntimeEvents,
    RuntimeStats,
    StreamingRuntime,
)
from vkprovider.provider.pod_provider import (
    NodeContext,
    PodContext,
    PodEventRecorder,
    PodProvider,
    ProviderPod,
    SyncResult,
)
from vkprovider.provider.registry import ProviderFactory, ProviderOptions, list_providers, load_factory
from vkprovider.provider.streams import ByteReader, ByteWriter, DuplexStream, ProcessStreams, TerminalSize

__all__ = [
    "AttachCapability",
    "ByteReader",
    "ByteWriter",
    "ContainerRuntime",
    "DuplexStream",
    "ExecCapability",
    "HostInfo",
    "HostResources",
    "ImageService",
    "LogOptions",
    "LogsCapability",
    "NodeContext",
    "NodeDescription",
    "NodeStatusCapability",
    "PodContext",
    "PodEventRecorder",
    "PodProvider",
    "PodUsage",
    "PortForwardCapability",
    "ProbingCapability",
    "ProcessStreams",
    "ProviderFactory",
    "ProviderOptions",
    "ProviderPod",
    "ResourceAccountingCapability",
    "ResourceUsage",
    "RuntimeEvents",
    "RuntimeStats",
    "StatsCapability",
    "StreamingRuntime",
    "SyncResult",
    "TerminalSize",
    "VolumesCapability",
    "cri",
    "list_providers",
    "load_factory",
]
