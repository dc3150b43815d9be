"""Metrics of a node under the kubelet's names: what the parts count into, and the text it is read in.

The one home of prometheus-client. Nothing here is global: each node has a registry of its own, so that several may live in one
process and tests start from nought.
"""

from __future__ import annotations

from vkprovider.metrics.exposition import CONTENT_TYPE, Family, render_families, render_registry
from vkprovider.metrics.kubelet import KubeletMetrics
from vkprovider.metrics.probes import ProbeMetrics
from vkprovider.metrics.process import find_process_start_s

__all__ = [
    "CONTENT_TYPE",
    "Family",
    "KubeletMetrics",
    "ProbeMetrics",
    "find_process_start_s",
    "render_families",
    "render_registry",
]
