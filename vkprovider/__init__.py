"""vkprovider: turn anything able to run a container into a Kubernetes node."""

from __future__ import annotations

from vkprovider._version import __version__ as __version__
