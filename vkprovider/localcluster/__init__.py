"""A Kubernetes API server and a small scheduler in this process, for development, tests and trying out.

It speaks enough of the API for real kubectl, kopf and ``kubernetes.aio`` clients, keeps its objects in memory or in an
SQLite file, and passes logs, exec, attach and port-forward on to kubelets. It is not a production control plane: there
is one server, no etcd, RBAC is answered but not enforced, and workload controllers are not run. Production is any real
cluster.
"""

from vkprovider.localcluster.cluster import LocalCluster

__all__ = ["LocalCluster"]
