"""What is special about each kind when it is created or changed.

Source: the ``strategy.go`` files below pkg/registry.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from vkprovider.api.resources import compute_qos_class
from vkprovider.api.timestamps import format_time
from vkprovider.localcluster import status
from vkprovider.localcluster.admission import add_default_tolerations, admit_pod
from vkprovider.localcluster.decoding import conform_value
from vkprovider.localcluster.defaults import apply_defaults
from vkprovider.localcluster.podspec import default_container
from vkprovider.localcluster.podvalidation import validate_pod_spec, validate_pod_update
from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.schema import get_message
from vkprovider.localcluster.status import FieldError
from vkprovider.localcluster.store import Store, Stored
from vkprovider.localcluster.users import User
from vkprovider.localcluster.validation import validate_kind, validate_kind_update

Object = dict[str, Any]
SERVICE_NETWORK: Final = ipaddress.IPv4Network("10.96.0.0/16")
NODE_PORTS: Final = range(30000, 32768)
_KEEP_STATUS_ON_CREATE: Final = frozenset({"nodes"})
_TEMPLATED: Final = frozenset(
    {
        "deployments.apps",
        "replicasets.apps",
        "daemonsets.apps",
        "statefulsets.apps",
        "jobs.batch",
        "replicationcontrollers",
    }
)
_CSR: Final = "certificatesigningrequests.certificates.k8s.io"
_TEMPLATE_GENERATION: Final = "deprecated.daemonset.template.generation"
AfterWrite = Callable[[Resource, Stored, str], Stored]


class Strategies:
    """Rules of each kind.

    Args:
        store: Where objects live.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._after: dict[str, list[AfterWrite]] = {}

    def on_write(self, storage: str, hook: AfterWrite) -> None:
        """Call ``hook(resource, stored, subresource)`` after each write to a collection; it gives the final version."""
        self._after.setdefault(storage, []).append(hook)

    def prepare_create(self, resource: Resource, obj: Object, user: User) -> None:
        """Complete a new object in place: status, defaults, admission.

        Raises:
            APIStatusError: 403, admission refuses it.
        """
        if resource.has_status and resource.key not in _KEEP_STATUS_ON_CREATE:
            obj.pop("status", None)
        apply_defaults(obj, resource.key)
        match resource.key:
            case "pods":
                admit_pod(obj, self._store)
                obj["status"] = {"phase": "Pending", "qosClass": compute_qos_class(obj)}  # type: ignore[arg-type]
                if obj["spec"].get("schedulingGates"):
                    obj["status"]["conditions"] = [gated_condition()]
            case "namespaces":
                obj.setdefault("spec", {})["finalizers"] = ["kubernetes"]
                obj["status"] = {"phase": "Active"}
            case "services":
                self._allocate_service(obj, None)
                obj["status"] = {"loadBalancer": {}}
            case "persistentvolumes":
                obj["status"] = {"phase": "Available" if not obj["spec"].get("claimRef") else "Pending"}
            case "persistentvolumeclaims":
                obj["status"] = {"phase": "Pending"}
            case key if key == _CSR:
                spec = obj.setdefault("spec", {})
                for owned in ("username", "uid", "groups", "extra"):
                    spec.pop(owned, None)
                spec.update(user.to_object())
                obj["status"] = {}
            case "nodes":
                state = obj.get("status") or {}
                if state.get("capacity") and not state.get("allocatable"):
                    state["allocatable"] = dict(state["capacity"])
            case "customresourcedefinitions.apiextensions.k8s.io":
                obj["status"] = _established(obj)
            case _ if resource.has_status and resource.message:
                obj["status"] = empty_status(resource)
        if resource.key == "daemonsets.apps":
            obj["metadata"].setdefault("annotations", {})[_TEMPLATE_GENERATION] = "1"

    def validate_create(self, resource: Resource, obj: Object) -> list[FieldError]:
        """Complaints about a new object, metadata aside."""
        if resource.key == "pods":
            return validate_pod_spec(obj.get("spec") or {})
        errors = validate_kind(obj, resource)
        template = (obj.get("spec") or {}).get("template")
        if resource.key in _TEMPLATED and template is not None:
            errors += validate_pod_spec(template.get("spec") or {}, "spec.template.spec", is_pod=False)
        elif resource.key in _TEMPLATED:
            errors.append(status.required("spec.template"))
        return errors

    def after_create(self, resource: Resource, stored: Stored) -> Stored:
        """Tell who waits for new objects of a kind."""
        return self.after_update(resource, stored, "")

    def prepare_update(self, resource: Resource, obj: Object, old: Object, subresource: str, user: User) -> None:
        """Keep what this request may not touch, and default the rest, in place."""
        del user
        if subresource == "status":
            self._keep_all_but(obj, old, "status")
            if "ownerReferences" in old["metadata"]:
                obj["metadata"]["ownerReferences"] = old["metadata"]["ownerReferences"]
            else:
                obj["metadata"].pop("ownerReferences", None)
            if resource.key == "deployments.apps":
                obj["metadata"]["labels"] = old["metadata"].get("labels", {})
                if not obj["metadata"]["labels"]:
                    del obj["metadata"]["labels"]
            return
        if subresource == "approval":
            conditions = (obj.get("status") or {}).get("conditions")
            self._keep_all_but(obj, old, "")
            merged = {**(old.get("status") or {}), **({"conditions": conditions} if conditions else {})}
            obj["status"] = merged
            return
        if subresource in ("resize", "ephemeralcontainers"):
            self._part_of_pod(obj, old, subresource)
            return
        if resource.has_status:
            if "status" in old:
                obj["status"] = old["status"]
            else:
                obj.pop("status", None)
        if resource.key == _CSR:
            obj["spec"] = old["spec"]
        if resource.key == "services":
            self._allocate_service(obj, old)
        if resource.key == "daemonsets.apps":
            count = int((old["metadata"].get("annotations") or {}).get(_TEMPLATE_GENERATION, "0"))
            changed = obj.get("spec", {}).get("template") != old["spec"].get("template")
            annotations = obj["metadata"]["annotations"] = dict(obj["metadata"].get("annotations") or {})
            annotations[_TEMPLATE_GENERATION] = str(count + changed)
        apply_defaults(obj, resource.key)
        if resource.key == "namespaces" and subresource != "finalize":
            obj["spec"] = old.get("spec", {})
        if resource.key == "pods":
            add_default_tolerations(obj["spec"])
            obj["spec"].setdefault("nodeName", (old.get("spec") or {}).get("nodeName", ""))
            if not obj["spec"]["nodeName"]:
                del obj["spec"]["nodeName"]

    def validate_update(self, resource: Resource, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        """Complaints about a change, metadata aside."""
        if resource.key == "pods":
            if subresource in ("resize", "ephemeralcontainers"):
                return validate_pod_spec(obj["spec"], is_pod=False)
            if subresource:
                return []
            return validate_pod_spec(obj["spec"], is_pod=False) + validate_pod_update(obj, old)
        if subresource in ("status", "approval", "finalize"):
            return []
        errors = validate_kind(obj, resource) + validate_kind_update(obj, old, resource)
        template = (obj.get("spec") or {}).get("template")
        if resource.key in _TEMPLATED and template is not None:
            errors += validate_pod_spec(template.get("spec") or {}, "spec.template.spec", is_pod=False)
        return errors

    def after_update(self, resource: Resource, stored: Stored, subresource: str) -> Stored:
        """Let the hooks of a kind react to a write; gives the version that stands at the end."""
        for hook in self._after.get(resource.key, ()):
            stored = hook(resource, stored, subresource)
        return stored

    @staticmethod
    def _keep_all_but(obj: Object, old: Object, kept: str) -> None:
        for key in [key for key in obj if key not in ("kind", "apiVersion", "metadata", kept)]:
            del obj[key]
        for key, value in old.items():
            if key not in ("kind", "apiVersion", "metadata", kept):
                obj[key] = value

    @staticmethod
    def _part_of_pod(obj: Object, old: Object, subresource: str) -> None:
        """Take only the resources of containers, or only added ephemeral containers, over into the old pod."""
        wanted = obj.get("spec") or {}
        spec = dict(old.get("spec") or {})
        if subresource == "ephemeralcontainers":
            added = wanted.get("ephemeralContainers") or []
            for container in added:
                default_container(container, ephemeral=True)
            before = {item["name"]: item for item in spec.get("ephemeralContainers") or ()}
            now = {item.get("name"): item for item in added}
            changed = next((name for name, item in before.items() if now.get(name) != item), None)
            if changed is not None:
                verb = "changed" if changed in now else "removed"
                error = status.field_forbidden(
                    "spec.ephemeralContainers", f'existing ephemeral containers "{changed}" may not be {verb}\n'
                )
                raise status.invalid_object("Pod", "", old["metadata"]["name"], [error])
            spec["ephemeralContainers"] = added
        else:
            for field in ("containers", "initContainers"):
                resources = {item.get("name"): item.get("resources", {}) for item in wanted.get(field) or ()}
                policies = {item.get("name"): item.get("resizePolicy") for item in wanted.get(field) or ()}
                if field in spec:
                    spec[field] = [
                        {
                            **item,
                            "resources": resources.get(item["name"], item.get("resources", {})),
                            **({"resizePolicy": policies[item["name"]]} if policies.get(item["name"]) else {}),
                        }
                        for item in spec[field]
                    ]
            if "resources" in wanted:
                spec["resources"] = wanted["resources"]
            qos = compute_qos_class({"spec": spec})  # type: ignore[typeddict-item]
            if qos != (old.get("status") or {}).get("qosClass", qos):
                before_qos = (old.get("status") or {}).get("qosClass")
                error = status.invalid("spec", before_qos, "Pod QOS Class may not change as a result of resizing")
                raise status.invalid_object("Pod", "", old["metadata"]["name"], [error])
        obj["spec"] = spec
        obj["status"] = old.get("status") or {}

    def _allocate_service(self, obj: Object, old: Object | None) -> None:
        """Give a service its cluster IP and node ports."""
        spec = obj.setdefault("spec", {})
        kind = spec.get("type", "ClusterIP")
        if kind == "ExternalName":
            return
        before = (old or {}).get("spec") or {}
        if not spec.get("clusterIP"):
            spec["clusterIP"] = before.get("clusterIP") or self._free_cluster_ip()
        elif spec["clusterIP"] != "None" and spec["clusterIP"] != before.get("clusterIP"):
            self._check_cluster_ip(obj, spec["clusterIP"])
        spec["clusterIPs"] = [spec["clusterIP"]]
        if kind in ("NodePort", "LoadBalancer"):
            ports = {port.get("port"): port.get("nodePort") for port in before.get("ports") or ()}
            for port in spec.get("ports") or ():
                if not port.get("nodePort"):
                    port["nodePort"] = ports.get(port.get("port")) or self._free_node_port(spec)

    def _used(self, key: str) -> set[Any]:
        return {
            item.obj["spec"].get(key) for item in self._store.collection("services").iterate() if "spec" in item.obj
        }

    def _free_cluster_ip(self) -> str:
        used = self._used("clusterIP")
        for address in SERVICE_NETWORK.hosts():
            if str(address) not in used:
                return str(address)
        raise status.internal_error("failed to allocate a serviceIP: range is full")

    def _check_cluster_ip(self, obj: Object, address: str) -> None:
        name = obj["metadata"].get("name", "")
        try:
            inside = ipaddress.IPv4Address(address) in SERVICE_NETWORK
        except ValueError:
            inside = False
        if not inside:
            detail = f"failed to allocate IP {address}: the provided network does not match the current range"
        elif address in self._used("clusterIP"):
            detail = f"failed to allocate IP {address}: provided IP is already allocated"
        else:
            return
        error = status.invalid("spec.clusterIPs", [address], detail)
        raise status.invalid_object("Service", "", name, [error])

    def _free_node_port(self, spec: Object) -> int:
        used = {port.get("nodePort") for port in spec.get("ports") or ()}
        for item in self._store.collection("services").iterate():
            used |= {port.get("nodePort") for port in (item.obj.get("spec") or {}).get("ports") or ()}
        for port in NODE_PORTS:
            if port not in used:
                return port
        raise status.internal_error("failed to allocate a nodePort: range is full")


def empty_status(resource: Resource) -> Object:
    """The status of an object that nothing has reported on yet."""
    field = get_message(resource.message).fields["status"]
    return dict(conform_value({}, field.type))


def gated_condition() -> Object:
    """The condition of a pod that waits for its scheduling gates."""
    return {
        "type": "PodScheduled",
        "status": "False",
        "lastProbeTime": None,
        "lastTransitionTime": format_time(datetime.now(UTC)),
        "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
    }


def _established(obj: Object) -> Object:
    names = (obj.get("spec") or {}).get("names") or {}
    versions = [item.get("name") for item in (obj.get("spec") or {}).get("versions") or () if item.get("storage")]
    return {"conditions": [], "acceptedNames": names, "storedVersions": versions}
