"""What is there from the start: namespaces with their contents, priority classes, roles, the service ``kubernetes``.

Source: pkg/controlplane/controller/systemnamespaces, plugin/pkg/auth/authorizer/rbac/bootstrappolicy,
pkg/apis/scheduling/v1/helpers.go; the service account and root CA publisher controllers.
"""

from __future__ import annotations

from typing import Any, Final

from vkprovider.localcluster.objects import ObjectService, WriteOptions
from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.store import Stored

Object = dict[str, Any]
NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")
_CLUSTER_ROLES: Final[dict[str, list[Object]]] = {
    "cluster-admin": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ],
    "system:kubelet-api-admin": [
        {"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["nodes"]},
        {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes"]},
        {
            "verbs": ["*"],
            "apiGroups": [""],
            "resources": [
                "nodes/checkpoint",
                "nodes/configz",
                "nodes/healthz",
                "nodes/log",
                "nodes/metrics",
                "nodes/pods",
                "nodes/proxy",
                "nodes/stats",
            ],
        },
    ],
    "view": [
        {
            "verbs": ["get", "list", "watch"],
            "apiGroups": ["", "apps", "batch", "networking.k8s.io", "policy", "discovery.k8s.io"],
            "resources": ["*"],
        }
    ],
    "edit": [
        {
            "verbs": ["*"],
            "apiGroups": ["", "apps", "batch", "networking.k8s.io", "policy"],
            "resources": ["*"],
        }
    ],
    "admin": [
        {
            "verbs": ["*"],
            "apiGroups": ["", "apps", "batch", "networking.k8s.io", "policy", "rbac.authorization.k8s.io"],
            "resources": ["*"],
        }
    ],
}


class Bootstrap:
    """Makes the first objects, and what every new namespace gets.

    Args:
        objects: The objects.
        ca_pem: The authority's certificate.
    """

    def __init__(self, objects: ObjectService, ca_pem: str) -> None:
        self._objects = objects
        self._ca_pem = ca_pem

    def on_namespace(self, resource: Resource, stored: Stored, subresource: str) -> Stored:
        """Fill a new namespace; a hook of the strategies."""
        del resource, subresource
        metadata = stored.obj["metadata"]
        if not metadata.get("deletionTimestamp"):
            self._ensure("serviceaccounts", "", metadata["name"], {"metadata": {"name": "default"}})
            self._ensure(
                "configmaps",
                "",
                metadata["name"],
                {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self._ca_pem}},
            )
        return stored

    def run(self, address: str) -> None:
        """Create what is missing.

        Args:
            address: ``host:port`` of the API server, for the endpoints of the service ``kubernetes``.
        """
        for name in NAMESPACES:
            self._ensure("namespaces", "", "", {"metadata": {"name": name}})
        for name, value in (("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)):
            self._ensure("priorityclasses", "scheduling.k8s.io", "", {"metadata": {"name": name}, "value": value})
        for name, rules in _CLUSTER_ROLES.items():
            self._ensure("clusterroles", "rbac.authorization.k8s.io", "", {"metadata": {"name": name}, "rules": rules})
        self._ensure(
            "clusterrolebindings",
            "rbac.authorization.k8s.io",
            "",
            {
                "metadata": {"name": "cluster-admin"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:masters"}],
            },
        )
        self._ensure(
            "configmaps",
            "",
            "kube-system",
            {
                "metadata": {"name": "extension-apiserver-authentication"},
                "data": {"client-ca-file": self._ca_pem},
            },
        )
        self._kubernetes_service(address)

    def _kubernetes_service(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        labels = {"component": "apiserver", "provider": "kubernetes"}
        self._ensure(
            "services",
            "",
            "default",
            {
                "metadata": {"name": "kubernetes", "labels": labels},
                "spec": {
                    "clusterIP": "10.96.0.1",
                    "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": int(port)}],
                },
            },
        )
        subsets = [{"addresses": [{"ip": host}], "ports": [{"name": "https", "port": int(port), "protocol": "TCP"}]}]
        endpoints = {"metadata": {"name": "kubernetes"}, "subsets": subsets}
        resource = self._objects.registry.get("endpoints")
        found = self._objects.store.collection("endpoints").find("default", "kubernetes")
        if found is None:
            self._objects.create(resource, "default", endpoints, WriteOptions())
        elif found.obj.get("subsets") != subsets:
            self._objects.rewrite(resource, found, {**found.obj, "subsets": subsets})

    def _ensure(self, plural: str, group: str, namespace: str, obj: Object) -> None:
        resource = self._objects.registry.get(plural, group)
        if self._objects.store.collection(resource.key).find(namespace, obj["metadata"]["name"]) is None:
            self._objects.create(resource, namespace, obj, WriteOptions())
