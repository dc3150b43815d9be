"""``/statusz`` and ``/flagz``: what runs here and how it was started, for people.

Source: apiserver pkg/server/statusz and pkg/server/flagz, the text form.
"""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Iterable, Mapping

from aiohttp import web

from vkprovider._version import __version__
from vkprovider.metrics import find_process_start_s
from vkprovider.settings import KUBELET_VERSION, Settings

_HEAD = (
    "\nkubelet {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility"
    " guarantees and is for debugging purposes only.\n"
)
_DELIMITERS = (":", ": ", "=", " ")


def effective_flags(settings: Settings) -> dict[str, str]:
    """What the settings amount to as flags of ``vkprovider run``; those left alone and empty are not listed."""
    node, server, cluster = settings.node, settings.server, settings.cluster
    flags = {
        "client-ca-file": server.client_ca_file,
        "context": cluster.context,
        "delete-node-on-exit": node.delete_on_exit,
        "exclude-from-load-balancers": node.exclude_from_load_balancers,
        "healthz-listen": f"{server.healthz_address}:{server.healthz_port}" if server.healthz_port else None,
        "kubeconfig": cluster.kubeconfig,
        "listen": f"{server.address}:{server.port}",
        "no-default-taint": not node.default_taint,
        "node-ip": ",".join(node.ips),
        "node-labels": ",".join(f"{key}={value}" for key, value in node.labels.items()),
        "node-name": node.name,
        "pod-infra-container-image": settings.pod_infra_container_image,
        "provider": settings.provider,
        "register-with-taints": ",".join(
            f"{taint['key']}={taint.get('value', '')}:{taint['effect']}" for taint in node.taints
        ),
        "root-dir": settings.root_dir,
        "standby": node.standby,
        "tls-cert-file": server.tls_cert_file,
        "tls-private-key-file": server.tls_private_key_file,
    }
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in flags.items()
        if value is not None and value != ""
    }


class DebugPages:
    """Answers ``/statusz`` and ``/flagz``.

    Args:
        flags: Flags in force by name.
        paths: All paths that are served, for the list of their first parts.
    """

    def __init__(self, flags: Mapping[str, str], paths: Iterable[str]) -> None:
        self._flags = dict(flags)
        self._roots = sorted({"/" + path.split("/")[1] for path in paths if path.strip("/")})

    async def handle_statusz(self, request: web.Request) -> web.Response:
        """Start, time since then, versions and paths."""
        started_s = find_process_start_s()
        up_s = max(0, int(time.time() - started_s))
        delimiter = _pick_delimiter()
        lines = {
            "Started": time.strftime("%a %b %e %H:%M:%S UTC %Y", time.gmtime(started_s)),
            "Up": f"{up_s // 3600} hr {up_s // 60 % 60:02d} min {up_s % 60:02d} sec",
            "Python version": platform.python_version(),
            "Binary version": f"{KUBELET_VERSION.lstrip('v')} (vkprovider {__version__})",
            "Paths": " ".join(self._roots),
        }
        text = "".join(f"{name}{delimiter} {value}\n" for name, value in lines.items())
        return web.Response(text=f"{_HEAD.format(page='statusz')}\n{text}")

    async def handle_flagz(self, request: web.Request) -> web.Response:
        """Flags with their values."""
        delimiter = _pick_delimiter()
        text = "".join(f"{name}{delimiter}{value}\n" for name, value in sorted(self._flags.items()))
        return web.Response(text=_HEAD.format(page="flagz") + text)


def _pick_delimiter() -> str:
    """A different one now and then, as upstream does lest somebody parse the page."""
    return random.choice(_DELIMITERS)  # noqa: S311
