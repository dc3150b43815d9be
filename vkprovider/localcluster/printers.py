"""How kubectl shows each kind: columns and rows.

Source: pkg/printers/internalversion/printers.go; staging/src/k8s.io/apimachinery/pkg/util/duration/duration.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from vkprovider.api.timestamps import parse_time
from vkprovider.localcluster.podtable import POD_COLUMNS, pod_row

Object = dict[str, Any]
Row = list[Any]
_NONE: Final = "<none>"
_TYPES: Final = {"": "string", "i": "integer", "b": "boolean", "d": "date"}
_UNKNOWN: Final = "<unknown>"


def human_duration(seconds: float) -> str:
    """Age in kubectl's form: ``5s``, ``2m10s``, ``3h``, ``4d``."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 120:
        return f"{max(total, 0)}s"
    minutes = total // 60
    if minutes < 10:
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    years = days // 365
    if days < 2920:
        return f"{years}y{days % 365}d" if days % 365 else f"{years}y"
    return f"{years}y"


def since(moment: str | None) -> str:
    """Age of a time stamp until now; ``<unknown>`` without one."""
    if not moment:
        return _UNKNOWN
    return human_duration((datetime.now(UTC) - parse_time(moment)).total_seconds())


def age(obj: Object) -> str:
    """Age of an object."""
    return since(obj["metadata"].get("creationTimestamp"))


def format_labels(labels: Mapping[str, str] | None) -> str:
    """``a=b,c=d``, sorted; ``<none>`` when there are none."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or _NONE


def format_selector(selector: Mapping[str, Any] | None) -> str:
    """A ``metav1.LabelSelector`` as text."""
    parts = [f"{key}={value}" for key, value in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for item in (selector or {}).get("matchExpressions") or ():
        operator, values = item["operator"], ",".join(item.get("values") or ())
        key = item["key"]
        parts.append({"Exists": key, "DoesNotExist": f"!{key}"}.get(operator, f"{key} {operator.lower()} ({values})"))
    return ",".join(parts) or _NONE


@dataclass(frozen=True, slots=True)
class Printer:
    """How one kind is shown.

    Attributes:
        columns: Names; a leading ``+`` marks one that only the wide output shows, ``:i``, ``:b`` and ``:d`` at the end
            an integer, a boolean and a date.
        row: Cells of one object.
    """

    columns: tuple[str, ...]
    row: Callable[[Object], Row]

    def definitions(self) -> list[Object]:
        """``columnDefinitions`` of the table."""
        found = []
        for column in self.columns:
            name, _, kind = column.lstrip("+").partition(":")
            found.append(
                {
                    "name": name,
                    "type": _TYPES[kind],
                    "format": "name" if name == "Name" else "",
                    "description": "",
                    "priority": 1 if column.startswith("+") else 0,
                }
            )
        return found


def _spec(obj: Object) -> Object:
    return obj.get("spec") or {}


def _status(obj: Object) -> Object:
    return obj.get("status") or {}


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _template_containers(obj: Object) -> tuple[str, str]:
    containers = _spec(obj).get("template", {}).get("spec", {}).get("containers") or ()
    return ",".join(c["name"] for c in containers), ",".join(c.get("image", "") for c in containers)


def _node(obj: Object) -> Row:
    states = {c["type"]: c.get("status") for c in _status(obj).get("conditions") or ()}
    words = ["Ready" if states.get("Ready") == "True" else "NotReady"] if "Ready" in states else ["Unknown"]
    if _spec(obj).get("unschedulable"):
        words.append("SchedulingDisabled")
    roles = set()
    for key, value in (obj["metadata"].get("labels") or {}).items():
        if key.startswith("node-role.kubernetes.io/"):
            roles.add(key.partition("/")[2])
        elif key == "kubernetes.io/role" and value:
            roles.add(value)
    info = _status(obj).get("nodeInfo") or {}
    addresses = {a["type"]: a["address"] for a in reversed(_status(obj).get("addresses") or [])}
    return [
        _name(obj),
        ",".join(words),
        ",".join(sorted(roles)) or _NONE,
        age(obj),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", _NONE),
        addresses.get("ExternalIP", _NONE),
        info.get("osImage") or _UNKNOWN,
        info.get("kernelVersion") or _UNKNOWN,
        info.get("containerRuntimeVersion") or _UNKNOWN,
    ]


def _event(obj: Object) -> Row:
    first, last = obj.get("firstTimestamp"), obj.get("lastTimestamp")
    first_seen = since(first) if first else since(obj.get("eventTime"))
    last_seen = since(last) if last else first_seen
    series = obj.get("series")
    count = obj.get("count") or 1
    if series:
        last_seen, count = since(series.get("lastObservedTime")), series.get("count", count)
    target = obj.get("involvedObject") or {}
    source = obj.get("source") or {}
    where = ", ".join(part for part in (source.get("component"), source.get("host")) if part)
    what = target.get("kind", "").lower() + (f"/{target['name']}" if target.get("name") else "")
    return [
        last_seen,
        obj.get("type", ""),
        obj.get("reason", ""),
        what,
        target.get("fieldPath", ""),
        where or obj.get("reportingComponent", ""),
        obj.get("message", "").strip(),
        first_seen,
        count,
        _name(obj),
    ]


def _deployment(obj: Object) -> Row:
    state = _status(obj)
    names, images = _template_containers(obj)
    return [
        _name(obj),
        f"{state.get('readyReplicas', 0)}/{_spec(obj).get('replicas', 0)}",
        state.get("updatedReplicas", 0),
        state.get("availableReplicas", 0),
        age(obj),
        names,
        images,
        format_selector(_spec(obj).get("selector")),
    ]


def _replica_set(obj: Object) -> Row:
    state = _status(obj)
    names, images = _template_containers(obj)
    selector = _spec(obj).get("selector")
    text = format_labels(selector) if obj.get("kind") == "ReplicationController" else format_selector(selector)
    counts = [_spec(obj).get("replicas", 0), state.get("replicas", 0), state.get("readyReplicas", 0)]
    return [_name(obj), *counts, age(obj), names, images, text]


def _daemon_set(obj: Object) -> Row:
    state = _status(obj)
    names, images = _template_containers(obj)
    counts = [
        state.get(key, 0)
        for key in ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    ]  # fmt: skip
    selector = _spec(obj).get("template", {}).get("spec", {}).get("nodeSelector")
    return [
        _name(obj), *counts, format_labels(selector), age(obj), names, images, format_selector(_spec(obj).get("selector")),
    ]  # fmt: skip


def _stateful_set(obj: Object) -> Row:
    names, images = _template_containers(obj)
    ready = f"{_status(obj).get('readyReplicas', 0)}/{_spec(obj).get('replicas', 0)}"
    return [_name(obj), ready, age(obj), names, images]


def _job(obj: Object) -> Row:
    spec, state = _spec(obj), _status(obj)
    done = state.get("succeeded", 0)
    if spec.get("completions") is not None:
        completions = f"{done}/{spec['completions']}"
    else:
        parallelism = spec.get("parallelism", 0)
        completions = f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"
    started, finished = state.get("startTime"), state.get("completionTime")
    duration = ""
    if started:
        end = parse_time(finished) if finished else datetime.now(UTC)
        duration = human_duration((end - parse_time(started)).total_seconds())
    true = {c["type"] for c in state.get("conditions") or () if c.get("status") == "True"}
    words = (("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet"))  # fmt: skip
    text = next((word for kind, word in words if kind in true), "Running")
    if text == "Running" and obj["metadata"].get("deletionTimestamp"):
        text = "Terminating"
    names, images = _template_containers(obj)
    return [_name(obj), text, completions, duration, age(obj), names, images, format_selector(spec.get("selector"))]


def _cron_job(obj: Object) -> Row:
    spec, state = _spec(obj), _status(obj)
    names, images = _template_containers({"spec": spec.get("jobTemplate", {}).get("spec", {})})
    last = since(state["lastScheduleTime"]) if state.get("lastScheduleTime") else _NONE
    suspended = "True" if spec.get("suspend") else "False"
    return [
        _name(obj), spec.get("schedule", ""), spec.get("timeZone", _NONE), suspended, len(state.get("active") or ()), last, age(obj), names, images, _NONE,
    ]  # fmt: skip


def _service(obj: Object) -> Row:
    spec = _spec(obj)
    kind = spec.get("type", "ClusterIP")
    external = list(spec.get("externalIPs") or ())
    if kind == "ExternalName":
        external = [spec.get("externalName", "")]
    elif kind == "LoadBalancer":
        ingress = (_status(obj).get("loadBalancer") or {}).get("ingress") or ()
        external += [item.get("ip") or item.get("hostname", "") for item in ingress]
        external = external or ["<pending>"]
    ports = ",".join(
        f"{port.get('port')}{':' + str(port['nodePort']) if port.get('nodePort') else ''}/{port.get('protocol', 'TCP')}"
        for port in spec.get("ports") or ()
    )
    return [
        _name(obj), kind, spec.get("clusterIP") or _NONE, ",".join(external) or _NONE, ports or _NONE, age(obj), format_labels(spec.get("selector")),
    ]  # fmt: skip


def _endpoints(obj: Object) -> Row:
    pairs = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in obj.get("subsets") or ()
        for port in subset.get("ports") or ({"port": ""},)
        for address in subset.get("addresses") or ()
    ]
    text = ",".join(pairs[:3]) + (f" + {len(pairs) - 3} more..." if len(pairs) > 3 else "")
    return [_name(obj), text or _NONE, age(obj)]


def _data(obj: Object) -> Row:
    return [_name(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), age(obj)]


def _secret(obj: Object) -> Row:
    return [_name(obj), obj.get("type", ""), len(obj.get("data") or ()), age(obj)]


def _csr(obj: Object) -> Row:
    spec, state = _spec(obj), _status(obj)
    words = [c["type"] for c in state.get("conditions") or ()] or ["Pending"]
    if state.get("certificate"):
        words.append("Issued")
    lifetime = spec.get("expirationSeconds")
    return [
        _name(obj), age(obj), spec.get("signerName", ""), spec.get("username", ""), human_duration(lifetime) if lifetime else _NONE, ",".join(words),
    ]  # fmt: skip


def _binding(obj: Object) -> Row:
    reference = obj.get("roleRef") or {}
    subjects: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        prefix = f"{subject.get('namespace', '')}/" if subject.get("kind") == "ServiceAccount" else ""
        subjects.setdefault(subject.get("kind", ""), []).append(prefix + subject.get("name", ""))
    shown = [", ".join(subjects[kind]) for kind in ("User", "Group", "ServiceAccount")]
    return [_name(obj), f"{reference.get('kind', '')}/{reference.get('name', '')}", age(obj), *shown]


def _volume(obj: Object) -> Row:
    spec = _spec(obj)
    claim = spec.get("claimRef") or {}
    return [
        _name(obj), (spec.get("capacity") or {}).get("storage", ""), _modes(spec), spec.get("persistentVolumeReclaimPolicy", ""),
        _status(obj).get("phase", ""), f"{claim.get('namespace')}/{claim.get('name')}" if claim else "",
        spec.get("storageClassName", ""), spec.get("volumeAttributesClassName") or "<unset>", _status(obj).get("reason", ""), age(obj), spec.get("volumeMode", "<unset>"),
    ]  # fmt: skip


def _modes(spec: Object) -> str:
    short = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
    return ",".join(short.get(mode, mode) for mode in spec.get("accessModes") or ())


def _claim(obj: Object) -> Row:
    spec, state = _spec(obj), _status(obj)
    phase = "Terminating" if obj["metadata"].get("deletionTimestamp") else state.get("phase", "")
    bound = bool(spec.get("volumeName"))
    return [
        _name(obj), phase, spec.get("volumeName", ""), (state.get("capacity") or {}).get("storage", "") if bound else "",
        _modes(state) if bound else "", spec.get("storageClassName", ""), spec.get("volumeAttributesClassName") or "<unset>", age(obj), spec.get("volumeMode", "<unset>"),
    ]  # fmt: skip


def _budget(obj: Object) -> Row:
    spec = _spec(obj)
    return [
        _name(obj), str(spec.get("minAvailable", "N/A")), str(spec.get("maxUnavailable", "N/A")), _status(obj).get("disruptionsAllowed", 0), age(obj),
    ]  # fmt: skip


def _quota(obj: Object) -> Row:
    state = _status(obj)
    used = state.get("used") or {}
    parts: tuple[list[str], list[str]] = ([], [])
    for name, hard in sorted((state.get("hard") or {}).items()):
        parts[name.startswith("limits.")].append(f"{name}: {used.get(name, '0')}/{hard}")
    return [_name(obj), ", ".join(parts[0]), ", ".join(parts[1]), age(obj)]


def _pod_template(obj: Object) -> Row:
    names, images = _template_containers({"spec": obj})
    return [_name(obj), names, images, format_labels(obj.get("template", {}).get("metadata", {}).get("labels"))]


def _ingress_class(obj: Object) -> Row:
    parameters = _spec(obj).get("parameters")
    group = f".{parameters['apiGroup']}" if parameters and parameters.get("apiGroup") else ""
    text = f"{parameters['kind']}{group}/{parameters['name']}" if parameters else _NONE
    return [_name(obj), _spec(obj).get("controller", ""), text, age(obj)]


def _csi_driver(obj: Object) -> Row:
    spec = _spec(obj)
    requests = spec.get("tokenRequests")
    audiences = "<unset>" if requests is None else ",".join(item.get("audience", "") for item in requests)
    modes = ",".join(spec.get("volumeLifecycleModes") or ()) or _NONE
    flags = [spec.get("attachRequired", True), spec.get("podInfoOnMount", False), spec.get("storageCapacity", False)]
    return [_name(obj), *flags, audiences, spec.get("requiresRepublish", False), modes, age(obj)]


def _slice(obj: Object) -> Row:
    ports = ",".join(str(port.get("port", "")) for port in obj.get("ports") or ()) or "<unset>"
    addresses = [address for item in obj.get("endpoints") or () for address in item.get("addresses") or ()]
    return [_name(obj), obj.get("addressType", ""), ports, ",".join(addresses) or "<unset>", age(obj)]


def _ingress(obj: Object) -> Row:
    hosts = [rule.get("host") or "*" for rule in _spec(obj).get("rules") or ()]
    points = (_status(obj).get("loadBalancer") or {}).get("ingress") or ()
    address = ",".join(item.get("ip") or item.get("hostname", "") for item in points)
    ports = "80, 443" if _spec(obj).get("tls") else "80"
    return [_name(obj), _spec(obj).get("ingressClassName", _NONE), ",".join(hosts) or "*", address, ports, age(obj)]


def _storage_class(obj: Object) -> Row:
    default = (obj["metadata"].get("annotations") or {}).get("storageclass.kubernetes.io/is-default-class") == "true"
    return [
        _name(obj) + (" (default)" if default else ""), obj.get("provisioner", ""), obj.get("reclaimPolicy", ""),
        obj.get("volumeBindingMode", ""), str(obj.get("allowVolumeExpansion", False)).lower(), age(obj),
    ]  # fmt: skip


def _simple(*getters: Callable[[Object], Any]) -> Callable[[Object], Row]:
    return lambda obj: [_name(obj), *(getter(obj) for getter in getters)]


_AGE: Final = _simple(age)
_WORKLOAD: Final = ("+Containers", "+Images", "+Selector")
_PRINTERS: Final[dict[str, Printer]] = {
    "pods": Printer(POD_COLUMNS, lambda obj: pod_row(obj, since)),
    "nodes": Printer(("Name", "Status", "Roles", "Age", "Version", "+Internal-IP", "+External-IP", "+OS-Image", "+Kernel-Version", "+Container-Runtime"), _node),
    "events": Printer(("Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen", "+Count", "+Name"), _event),
    "namespaces": Printer(("Name", "Status", "Age"), _simple(lambda o: _status(o).get("phase", ""), age)),
    "deployments.apps": Printer(("Name", "Ready", "Up-to-date", "Available", "Age", *_WORKLOAD), _deployment),
    "replicasets.apps": Printer(("Name", "Desired:i", "Current:i", "Ready:i", "Age", *_WORKLOAD), _replica_set),
    "replicationcontrollers": Printer(("Name", "Desired:i", "Current:i", "Ready:i", "Age", *_WORKLOAD), _replica_set),
    "daemonsets.apps": Printer(("Name", "Desired:i", "Current:i", "Ready:i", "Up-to-date:i", "Available:i", "Node Selector", "Age", *_WORKLOAD), _daemon_set),
    "statefulsets.apps": Printer(("Name", "Ready", "Age", "+Containers", "+Images"), _stateful_set),
    "controllerrevisions.apps": Printer(("Name", "Controller", "Revision", "Age"), _simple(lambda o: next((f"{r['kind'].lower()}.apps/{r['name']}" for r in o["metadata"].get("ownerReferences") or () if r.get("controller")), _NONE), lambda o: o.get("revision", 0), age)),
    "jobs.batch": Printer(("Name", "Status", "Completions", "Duration", "Age", *_WORKLOAD), _job),
    "cronjobs.batch": Printer(("Name", "Schedule", "Timezone", "Suspend:b", "Active:i", "Last Schedule", "Age", *_WORKLOAD), _cron_job),
    "services": Printer(("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"), _service),
    "endpoints": Printer(("Name", "Endpoints", "Age"), _endpoints),
    "configmaps": Printer(("Name", "Data", "Age"), _data),
    "secrets": Printer(("Name", "Type", "Data", "Age"), _secret),
    "serviceaccounts": Printer(("Name", "Age"), _AGE),
    "leases.coordination.k8s.io": Printer(("Name", "Holder", "Age"), _simple(lambda o: _spec(o).get("holderIdentity", ""), age)),
    "certificatesigningrequests.certificates.k8s.io": Printer(("Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"), _csr),
    "rolebindings.rbac.authorization.k8s.io": Printer(("Name", "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"), _binding),
    "clusterrolebindings.rbac.authorization.k8s.io": Printer(("Name", "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"), _binding),
    "roles.rbac.authorization.k8s.io": Printer(("Name", "Created At:d"), _simple(lambda o: o["metadata"].get("creationTimestamp", ""))),
    "clusterroles.rbac.authorization.k8s.io": Printer(("Name", "Created At:d"), _simple(lambda o: o["metadata"].get("creationTimestamp", ""))),
    "persistentvolumes": Printer(("Name", "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass", "VolumeAttributesClass", "Reason", "Age", "+VolumeMode"), _volume),
    "persistentvolumeclaims": Printer(("Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age", "+VolumeMode"), _claim),
    "poddisruptionbudgets.policy": Printer(("Name", "Min Available", "Max Unavailable", "Allowed Disruptions:i", "Age"), _budget),
    "priorityclasses.scheduling.k8s.io": Printer(("Name", "Value:i", "Global-Default:b", "Age", "PreemptionPolicy"), _simple(lambda o: o.get("value", 0), lambda o: str(o.get("globalDefault", False)).lower(), age, lambda o: o.get("preemptionPolicy", ""))),
    "resourcequotas": Printer(("Name", "Request", "Limit", "Age"), _quota),
    "podtemplates": Printer(("Name", "Containers", "Images", "Pod Labels"), _pod_template),
    "ingressclasses.networking.k8s.io": Printer(("Name", "Controller", "Parameters", "Age"), _ingress_class),
    "csidrivers.storage.k8s.io": Printer(("Name", "AttachRequired:b", "PodInfoOnMount:b", "StorageCapacity:b", "TokenRequests", "RequiresRepublish:b", "Modes", "Age"), _csi_driver),
    "runtimeclasses.node.k8s.io": Printer(("Name", "Handler", "Age"), _simple(lambda o: o.get("handler", ""), age)),
    "endpointslices.discovery.k8s.io": Printer(("Name", "AddressType", "Ports", "Endpoints", "Age"), _slice),
    "ingresses.networking.k8s.io": Printer(("Name", "Class", "Hosts", "Address", "Ports", "Age"), _ingress),
    "networkpolicies.networking.k8s.io": Printer(("Name", "Pod-Selector", "Age"), _simple(lambda o: format_selector(_spec(o).get("podSelector")), age)),
    "storageclasses.storage.k8s.io": Printer(("Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"), _storage_class),
    "csinodes.storage.k8s.io": Printer(("Name", "Drivers:i", "Age"), _simple(lambda o: len(_spec(o).get("drivers") or ()), age)),
    "volumeattachments.storage.k8s.io": Printer(("Name", "Attacher", "PV", "Node", "Attached:b", "Age"), _simple(lambda o: _spec(o).get("attacher", ""), lambda o: (_spec(o).get("source") or {}).get("persistentVolumeName", ""), lambda o: _spec(o).get("nodeName", ""), lambda o: str(_status(o).get("attached", False)).lower(), age)),
}  # fmt: skip
_CREATED_AT: Final = Printer(
    ("Name", "Created At:d"), lambda obj: [_name(obj), obj["metadata"].get("creationTimestamp", "")]
)


def find_printer(storage: str) -> Printer:
    """How the objects of a collection are shown; name and creation time when nothing better is known."""
    return _PRINTERS.get(storage, _CREATED_AT)
