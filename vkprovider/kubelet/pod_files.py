"""Files that the kubelet itself gives to containers: ``/etc/hosts`` and the termination message file.

They live under ``<root>/pods/<uid>``, only where the runtime can mount our files.

Source: pkg/kubelet/kubelet_pods.go, makeHostsMount, managedHostsFileContent; kuberuntime_container.go, makeMounts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.kubelet.container_config import DEFAULT_TERMINATION_MESSAGE_PATH
from vkprovider.kubelet.sandbox_config import make_hostname
from vkprovider.provider import cri

HOSTS_PATH: Final = "/etc/hosts"
DIRECTORY_MODE: Final = 0o750
_HEADER = "# Kubernetes-managed hosts file.\n"
_HOST_NETWORK_HEADER = "# Kubernetes-managed hosts file (host network).\n"
_LOCAL_ENTRIES = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "fe00::0\tip6-mcastprefix\n"
    "fe00::1\tip6-allnodes\n"
    "fe00::2\tip6-allrouters\n"
)


def make_hosts_text(pod: v1.Pod, *, pod_ips: Sequence[str], cluster_domain: str, node_hosts: str | None = None) -> str:
    """Contents of a pod's ``/etc/hosts``.

    Args:
        pod: The pod.
        pod_ips: Its addresses.
        cluster_domain: Domain of the cluster's services.
        node_hosts: The node's own file, for pods in the host's network; else None.
    """
    if node_hosts is not None:
        text = _HOST_NETWORK_HEADER + node_hosts
    else:
        hostname, domain = make_hostname(pod, cluster_domain=cluster_domain)
        names = f"{hostname}.{domain}\t{hostname}" if domain else hostname
        text = _HEADER + _LOCAL_ENTRIES + "".join(f"{ip}\t{names}\n" for ip in pod_ips)
    aliases: Sequence[Mapping[str, Any]] = pod.get("spec", {}).get("hostAliases") or ()
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join("\t".join([alias["ip"], *(alias.get("hostnames") or ())]) + "\n" for alias in aliases)
    return text


class PodFiles:
    """Makes and removes the files of pods. All file work happens in threads.

    Args:
        root_dir: Directory of this node's files.
        cluster_domain: Domain of the cluster's services.
        enabled: Whether the runtime can mount our files; if not, there are none.
    """

    def __init__(self, root_dir: Path, *, cluster_domain: str, enabled: bool) -> None:
        self._pods_dir = root_dir / "pods"
        self._cluster_domain = cluster_domain
        self._enabled = enabled

    async def make_mounts(
        self, pod: v1.Pod, container: v1.Container, *, pod_ips: Sequence[str]
    ) -> tuple[cri.Mount, ...]:
        """Write the files for one start of a container and return their mounts.

        Args:
            pod: The pod.
            container: One of its containers.
            pod_ips: Addresses of the pod.

        Raises:
            OSError: They cannot be written.
        """
        if not self._enabled:
            return ()
        return await asyncio.to_thread(self._make_mounts, pod, container, tuple(pod_ips))

    def _make_mounts(self, pod: v1.Pod, container: v1.Container, pod_ips: Sequence[str]) -> tuple[cri.Mount, ...]:
        mounts: list[cri.Mount] = []
        directory = self._pods_dir / get_uid(pod)
        mounted = {mount.get("mountPath") for mount in container.get("volumeMounts") or ()}
        host_network = bool(pod.get("spec", {}).get("hostNetwork"))
        message_path = container.get("terminationMessagePath", DEFAULT_TERMINATION_MESSAGE_PATH)
        message_dir = directory / "containers" / container["name"]
        _make_directories(message_dir if message_path else directory)
        if HOSTS_PATH not in mounted and (host_network or pod_ips):
            node_hosts = Path(HOSTS_PATH).read_text(encoding="utf-8", errors="replace") if host_network else None
            text = make_hosts_text(pod, pod_ips=pod_ips, cluster_domain=self._cluster_domain, node_hosts=node_hosts)
            hosts = directory / "etc-hosts"
            # In place: containers that run have this very file mounted.
            hosts.write_text(text, encoding="utf-8")
            hosts.chmod(0o644)
            mounts.append(cri.Mount(HOSTS_PATH, str(hosts)))
        if message_path:
            file = message_dir / secrets.token_hex(4)
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            file.chmod(0o666)
            mounts.append(cri.Mount(message_path, str(file)))
        return tuple(mounts)

    async def remove_pod(self, uid: v1.PodUID) -> None:
        """Remove the pod's directory, if there is one.

        Raises:
            OSError: It cannot be removed.
        """
        if self._enabled:
            await asyncio.to_thread(_remove_tree, self._pods_dir / uid)


def _make_directories(path: Path) -> None:
    if not path.is_dir():
        _make_directories(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=DIRECTORY_MODE)


def _remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
