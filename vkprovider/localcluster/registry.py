"""The resources that the local cluster serves, as data.

Source: pkg/controlplane/instance.go and the storage strategies below pkg/registry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

ALL_VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One resource of one API group and version.

    Attributes:
        group: API group, empty for core.
        version: API version.
        plural: Name in paths.
        kind: Kind of the objects.
        namespaced: Whether objects live in namespaces.
        message: Name of the schema message; empty when the objects are kept as they come.
        short_names: What kubectl accepts beside the plural.
        categories: e.g. ``all``.
        subresources: Subresource name to the verbs it has.
        storage: Key of the collection; two versions of one thing share it.
        verbs: What may be done; a virtual resource (a review) has ``create`` only.
        generation: Whether ``metadata.generation`` counts changes of the spec.
        unconditional_update: Whether a PUT without resourceVersion is accepted.
        create_on_update: Whether a PUT of an object that does not exist creates it.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    message: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[tuple[str, tuple[str, ...]], ...] = ()
    storage: str = ""
    verbs: tuple[str, ...] = ALL_VERBS
    generation: bool = False
    unconditional_update: bool = True
    create_on_update: bool = False

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """Lower-case kind, as kubectl accepts it."""
        return self.kind.lower()

    @property
    def has_status(self) -> bool:
        """Whether status is written through its own subresource only."""
        return any(name == "status" for name, _ in self.subresources)

    @property
    def key(self) -> str:
        """Key of the collection that holds the objects."""
        return self.storage or (f"{self.plural}.{self.group}" if self.group else self.plural)


_RW: Final = ("get", "patch", "update")
STATUS: Final = ("status", _RW)
SCALE: Final = ("scale", _RW)
_CREATE: Final = ("create",)
_CONNECT: Final = ("create", "get")


def _core(plural: str, kind: str, namespaced: bool = True, **more: object) -> Resource:
    return Resource("", "v1", plural, kind, namespaced, f"core.{kind}", **more)  # type: ignore[arg-type]


def _in(group: str, package: str, plural: str, kind: str, namespaced: bool = True, **more: object) -> Resource:
    return Resource(group, "v1", plural, kind, namespaced, f"{package}.{kind}" if package else "", **more)  # type: ignore[arg-type]


def _review(group: str, package: str, plural: str, kind: str, namespaced: bool = False) -> Resource:
    return _in(group, package, plural, kind, namespaced, verbs=_CREATE)


_PROXY_VERBS: Final = ("create", "delete", "get", "patch", "update")
_K8S: Final = "k8s.io"
RESOURCES: Final[tuple[Resource, ...]] = (
    _core("bindings", "Binding", verbs=_CREATE),
    _core("configmaps", "ConfigMap", short_names=("cm",)),
    _core("endpoints", "Endpoints", create_on_update=True, short_names=("ep",)),
    _core("events", "Event", create_on_update=True, short_names=("ev",), storage="events"),
    _core("limitranges", "LimitRange", create_on_update=True, short_names=("limits",)),
    _core(
        "namespaces",
        "Namespace",
        False,
        short_names=("ns",),
        subresources=(("finalize", ("update",)), STATUS),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
    ),
    _core("nodes", "Node", False, short_names=("no",), subresources=(("proxy", _PROXY_VERBS), STATUS)),
    _core("persistentvolumeclaims", "PersistentVolumeClaim", short_names=("pvc",), subresources=(STATUS,)),
    _core("persistentvolumes", "PersistentVolume", False, short_names=("pv",), subresources=(STATUS,)),
    _core(
        "pods",
        "Pod",
        short_names=("po",),
        categories=("all",),
        generation=True,
        subresources=(
            ("attach", _CONNECT),
            ("binding", _CREATE),
            ("ephemeralcontainers", _RW),
            ("eviction", _CREATE),
            ("exec", _CONNECT),
            ("log", ("get",)),
            ("portforward", _CONNECT),
            ("resize", _RW),
            STATUS,
        ),
    ),
    _core("podtemplates", "PodTemplate"),
    _core(
        "replicationcontrollers",
        "ReplicationController",
        short_names=("rc",),
        categories=("all",),
        subresources=(SCALE, STATUS),
        generation=True,
    ),
    _core("resourcequotas", "ResourceQuota", short_names=("quota",), subresources=(STATUS,)),
    _core("secrets", "Secret"),
    _core("serviceaccounts", "ServiceAccount", short_names=("sa",), subresources=(("token", _CREATE),)),
    _core("services", "Service", create_on_update=True, short_names=("svc",), categories=("all",), subresources=(STATUS,)),
    _in("apps", "apps", "controllerrevisions", "ControllerRevision"),
    _in("apps", "apps", "daemonsets", "DaemonSet", short_names=("ds",), categories=("all",), subresources=(STATUS,), generation=True),
    _in("apps", "apps", "deployments", "Deployment", short_names=("deploy",), categories=("all",), subresources=(SCALE, STATUS), generation=True),
    _in("apps", "apps", "replicasets", "ReplicaSet", short_names=("rs",), categories=("all",), subresources=(SCALE, STATUS), generation=True),
    _in("apps", "apps", "statefulsets", "StatefulSet", short_names=("sts",), categories=("all",), subresources=(SCALE, STATUS), generation=True),
    _in("batch", "batch", "cronjobs", "CronJob", short_names=("cj",), categories=("all",), subresources=(STATUS,), generation=True),
    _in("batch", "batch", "jobs", "Job", categories=("all",), subresources=(STATUS,), generation=True),
    _review("authentication.k8s.io", "authentication", "selfsubjectreviews", "SelfSubjectReview"),
    _review("authentication.k8s.io", "authentication", "tokenreviews", "TokenReview"),
    _review("authorization.k8s.io", "authorization", "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    _review("authorization.k8s.io", "authorization", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    _review("authorization.k8s.io", "authorization", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    _review("authorization.k8s.io", "authorization", "subjectaccessreviews", "SubjectAccessReview"),
    _in(
        "certificates.k8s.io",
        "certificates",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        False,
        short_names=("csr",),
        subresources=(("approval", _RW), STATUS),
    ),
    _in("coordination.k8s.io", "coordination", "leases", "Lease", unconditional_update=False, create_on_update=True),
    _in("discovery.k8s.io", "discovery", "endpointslices", "EndpointSlice", generation=True),
    _in("events.k8s.io", "events", "events", "Event", short_names=("ev",), storage="events"),
    _in("networking.k8s.io", "networking", "ingressclasses", "IngressClass", False, generation=True),
    _in("networking.k8s.io", "networking", "ingresses", "Ingress", short_names=("ing",), subresources=(STATUS,), generation=True),
    _in("networking.k8s.io", "networking", "networkpolicies", "NetworkPolicy", short_names=("netpol",), generation=True),
    _in("node.k8s.io", "node", "runtimeclasses", "RuntimeClass", False),
    _in("policy", "policy", "poddisruptionbudgets", "PodDisruptionBudget", short_names=("pdb",), subresources=(STATUS,), generation=True, unconditional_update=False),
    _in("rbac.authorization.k8s.io", "rbac", "clusterrolebindings", "ClusterRoleBinding", False, create_on_update=True),
    _in("rbac.authorization.k8s.io", "rbac", "clusterroles", "ClusterRole", False, create_on_update=True),
    _in("rbac.authorization.k8s.io", "rbac", "rolebindings", "RoleBinding", create_on_update=True),
    _in("rbac.authorization.k8s.io", "rbac", "roles", "Role", create_on_update=True),
    _in("scheduling.k8s.io", "scheduling", "priorityclasses", "PriorityClass", False, short_names=("pc",), generation=True),
    _in("storage.k8s.io", "storage", "csidrivers", "CSIDriver", False),
    _in("storage.k8s.io", "storage", "csinodes", "CSINode", False),
    _in("storage.k8s.io", "storage", "storageclasses", "StorageClass", False, short_names=("sc",)),
    _in("storage.k8s.io", "storage", "volumeattachments", "VolumeAttachment", False, subresources=(STATUS,)),
    _in(
        "apiextensions.k8s.io",
        "",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        False,
        short_names=("crd", "crds"),
        categories=("api-extensions",),
        subresources=(STATUS,),
        generation=True,
        unconditional_update=False,
    ),
)  # fmt: skip


class Registry:
    """Finds resources by path and by kind."""

    def __init__(self, resources: Iterable[Resource] = RESOURCES) -> None:
        self.resources: Final = tuple(resources)
        self._by_path = {(r.group, r.version, r.plural): r for r in self.resources}
        self._by_kind = {(r.group, r.version, r.kind): r for r in self.resources}

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource at ``/apis/<group>/<version>/<plural>``, or None."""
        return self._by_path.get((group, version, plural))

    def find_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource whose objects carry this apiVersion and kind, or None."""
        group, _, version = api_version.rpartition("/")
        return self._by_kind.get((group, version, kind))

    def get(self, plural: str, group: str = "") -> Resource:
        """The v1 resource of this name.

        Raises:
            KeyError: There is none.
        """
        return self._by_path[(group, "v1", plural)]

    def list_groups(self) -> list[str]:
        """Named groups in the order of their priority."""
        return list(dict.fromkeys(r.group for r in self.resources if r.group))

    def list_in(self, group: str, version: str) -> list[Resource]:
        """Resources of one group and version."""
        return [r for r in self.resources if r.group == group and r.version == version]

    def list_stored(self) -> list[Resource]:
        """One resource for each collection."""
        return list({r.key: r for r in reversed(self.resources) if "list" in r.verbs}.values())[::-1]
