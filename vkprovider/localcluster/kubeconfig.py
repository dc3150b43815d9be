"""Kubeconfig files for the users of a local cluster."""

from __future__ import annotations

from pathlib import Path

import yaml

from vkprovider.localcluster.pki import CertificateFiles, write_private


def write_kubeconfig(path: Path, *, server: str, ca: Path, client: CertificateFiles, context: str, user: str) -> None:
    """Write a kubeconfig with the credentials by path, readable by its owner only; blocks on files.

    Args:
        path: The file; an old one is replaced.
        server: URL of the API server.
        ca: The authority's certificate.
        client: The user's certificate and key.
        context: Name of the cluster and of the context.
        user: Name of the user entry.
    """
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority": str(ca)}}],
        "users": [
            {
                "name": user,
                "user": {"client-certificate": str(client.certificate), "client-key": str(client.key)},
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
        "current-context": context,
        "preferences": {},
    }
    write_private(path, yaml.safe_dump(config, sort_keys=False).encode())
