"""Keys of labels and annotations, on containers in a runtime and on nodes."""

from __future__ import annotations

from typing import Final

# On sandboxes and containers, as every kubelet writes them.
# Source: staging/src/k8s.io/kubelet/pkg/types/labels.go, pkg/kubelet/kuberuntime/labels.go.
POD_NAME: Final = "io.kubernetes.pod.name"
POD_NAMESPACE: Final = "io.kubernetes.pod.namespace"
POD_UID: Final = "io.kubernetes.pod.uid"
CONTAINER_NAME: Final = "io.kubernetes.container.name"

# Annotations of containers in a runtime.
CONTAINER_HASH: Final = "io.kubernetes.container.hash"
CONTAINER_RESTART_COUNT: Final = "io.kubernetes.container.restartCount"
CONTAINER_TERMINATION_MESSAGE_PATH: Final = "io.kubernetes.container.terminationMessagePath"
CONTAINER_TERMINATION_MESSAGE_POLICY: Final = "io.kubernetes.container.terminationMessagePolicy"
CONTAINER_PRE_STOP_HANDLER: Final = "io.kubernetes.container.preStopHandler"
CONTAINER_PORTS: Final = "io.kubernetes.container.ports"
POD_TERMINATION_GRACE_PERIOD: Final = "io.kubernetes.pod.terminationGracePeriod"
POD_DELETION_GRACE_PERIOD: Final = "io.kubernetes.pod.deletionGracePeriod"

# Ours: seconds that a restart of this instance has to wait, so that backoff outlives the process.
CONTAINER_RESTART_BACKOFF: Final = "vkprovider.io/restart-backoff"

# Ours: which node of which cluster owns a sandbox or container, since several nodes may share an engine.
OWNER_CLUSTER: Final = "vkprovider.io/cluster-uid"
OWNER_NODE: Final = "vkprovider.io/node"

# On nodes.
HOSTNAME: Final = "kubernetes.io/hostname"
OS: Final = "kubernetes.io/os"
ARCH: Final = "kubernetes.io/arch"
BETA_OS: Final = "beta.kubernetes.io/os"
BETA_ARCH: Final = "beta.kubernetes.io/arch"
NODE_TYPE: Final = "type"
NODE_TYPE_VALUE: Final = "virtual-kubelet"
EXCLUDE_LOAD_BALANCERS: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
PROVIDER_TAINT: Final = "virtual-kubelet.io/provider"
INSTANCE_ANNOTATION: Final = "vkprovider.io/instance-id"
ATTACH_DETACH_ANNOTATION: Final = "volumes.kubernetes.io/controller-managed-attach-detach"
