"""Liveness, readiness and startup probes: ``ProbeManager`` runs them and keeps their results."""

from vkprovider.kubelet.prober.manager import ProbeManager

__all__ = ["ProbeManager"]
