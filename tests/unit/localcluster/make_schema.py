"""Makes the tables of ``vkprovider/localcluster/schema`` anew from the published Go modules of the Kubernetes API.

Run it by hand when a newer API is to be served::

    python make_schema.py <dir of k8s.io/api> <dir of k8s.io/apimachinery> <dir of vkprovider/localcluster/schema>

It reads the struct tags and list markers of ``types.go``; only names, numbers and types come over, no text.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

# Where each short package name lives, below k8s.io/api or k8s.io/apimachinery.
PACKAGES = {
    "meta": "pkg/apis/meta/v1",
    "core": "core/v1",
    "apps": "apps/v1",
    "batch": "batch/v1",
    "autoscaling": "autoscaling/v1",
    "authentication": "authentication/v1",
    "authorization": "authorization/v1",
    "certificates": "certificates/v1",
    "coordination": "coordination/v1",
    "discovery": "discovery/v1",
    "events": "events/v1",
    "networking": "networking/v1",
    "node": "node/v1",
    "policy": "policy/v1",
    "rbac": "rbac/v1",
    "scheduling": "scheduling/v1",
    "storage": "storage/v1",
}
ROOTS = {
    "meta": ["DeleteOptions", "Status"],
    "core": [
        "Binding",
        "ConfigMap",
        "Endpoints",
        "Event",
        "LimitRange",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Pod",
        "PodTemplate",
        "ReplicationController",
        "ResourceQuota",
        "Secret",
        "Service",
        "ServiceAccount",
    ],
    "apps": ["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"],
    "batch": ["CronJob", "Job"],
    "autoscaling": ["Scale"],
    "authentication": ["SelfSubjectReview", "TokenRequest", "TokenReview"],
    "authorization": [
        "LocalSubjectAccessReview",
        "SelfSubjectAccessReview",
        "SelfSubjectRulesReview",
        "SubjectAccessReview",
    ],
    "certificates": ["CertificateSigningRequest"],
    "coordination": ["Lease"],
    "discovery": ["EndpointSlice"],
    "events": ["Event"],
    "networking": ["Ingress", "IngressClass", "NetworkPolicy"],
    "node": ["RuntimeClass"],
    "policy": ["Eviction", "PodDisruptionBudget"],
    "rbac": ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    "scheduling": ["PriorityClass"],
    "storage": ["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment"],
}
ALIASES = {"metav1": "meta", "v1": "core", "apiv1": "core", "corev1": "core", "rbacv1": "rbac"}
SCALARS = {
    "string": "s", "bool": "b", "int": "i", "int32": "i", "int64": "i", "uint32": "i", "float64": "d", "byte": "i",
    "metav1.Time": "t", "meta.Time": "t", "metav1.MicroTime": "u", "metav1.Duration": "D", "resource.Quantity": "q",
    "intstr.IntOrString": "o", "runtime.RawExtension": "r", "types.UID": "s", "metav1.FieldsV1": "f",
    "Time": "t", "MicroTime": "u", "FieldsV1": "f",
}  # fmt: skip


class Package:
    def __init__(self, directory: Path) -> None:
        self.structs: dict[str, list[tuple[str, str, str, dict[str, str]]]] = {}
        self.named: dict[str, str] = {}
        for path in sorted(directory.glob("*.go")):
            if not path.name.endswith("_test.go") and path.name != "generated.pb.go" and "zz_" not in path.name:
                self.read(path.read_text())

    def read(self, text: str) -> None:
        for match in re.finditer(r"^type (\w+) (?!struct|interface)([\w\[\].*]+)", text, re.M):
            self.named.setdefault(match.group(1), match.group(2))
        for match in re.finditer(r"^\t(\w+) (\[\]\w+|map\[\w+\]\w+|string|int32)$", text, re.M):
            self.named.setdefault(match.group(1), match.group(2))
        for match in re.finditer(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
            fields, markers = [], {}
            for line in match.group(2).splitlines():
                stripped = line.strip()
                if marker := re.match(r"//\s*\+(\w+)=([\w,]+)", stripped):
                    key, value = marker.groups()
                    markers[key] = f"{markers[key]},{value}" if key == "listMapKey" and key in markers else value
                elif stripped.startswith("//"):
                    continue
                elif field := re.match(r"(?:(\w+)\s+)?([\w\[\].*]+)\s+`(.*)`", stripped):
                    _, kind, tags = field.groups()
                    fields.append((kind, tags, field.group(1) or "", markers))
                    markers = {}
                elif not stripped:
                    continue
            self.structs[match.group(1)] = fields


def main(api: Path, machinery: Path, target: Path) -> None:
    packages = {short: Package((machinery if short == "meta" else api) / folder) for short, folder in PACKAGES.items()}
    done: dict[str, dict[str, str]] = {short: {} for short in PACKAGES}
    queue = [(short, kind) for short, kinds in ROOTS.items() for kind in kinds]

    def resolve(short: str, kind: str) -> str:
        """Type code of a Go type; messages found on the way are queued."""
        pointer = ""
        if kind.startswith("*"):
            pointer, kind = "*", kind[1:]
        if kind == "[]byte":
            return "y"
        if kind.startswith("[]"):
            return "[]" + resolve(short, kind[2:]).lstrip("*")
        if match := re.match(r"map\[[\w.]+\](.*)", kind):
            return "{}" + resolve(short, match.group(1)).lstrip("*")
        if kind in SCALARS:
            return pointer + SCALARS[kind]
        package, _, name = kind.rpartition(".")
        package = ALIASES.get(package, package) or short
        if package not in packages:
            raise SystemExit(f"unknown package in {short}: {kind}")
        known = packages[package]
        if name in known.structs:
            queue.append((package, name))
            return pointer + (name if package == short else f"{package}.{name}")
        if name in known.named:
            inner = known.named[name]
            return pointer + resolve(package, inner)
        raise SystemExit(f"unknown type in {short}: {kind}")

    while queue:
        short, kind = queue.pop()
        if kind in done[short]:
            continue
        done[short][kind] = ""
        out = []
        for go_type, tags, go_name, markers in packages[short].structs[kind]:
            wire = re.search(r'protobuf:"\w+,(\d+)(?:,(?:opt|rep|req))?(?:,name=(\w+))?', tags)
            json_tag = re.search(r'json:"([^"]*)"', tags)
            if wire is None or json_tag is None:
                continue
            name, _, options = json_tag.group(1).partition(",")
            inline = "inline" in options
            if inline:
                name = wire.group(2) or go_type[0].lower() + go_type[1:]
            code = resolve(short, go_type)
            # encoding/json writes a struct that is no pointer even with omitempty.
            is_struct = code[0] not in "*[{" and (len(code) > 1 or code in "tuqo")
            always = not inline and ("omit" not in options or (is_struct and "omitzero" not in options))
            text = ("." if inline else "") + (name or go_name) + "=" + wire.group(1) + ("+" if always else "") + code
            strategy = re.search(r'patchStrategy:"([^"]*)"', tags)
            merge_key = re.search(r'patchMergeKey:"([^"]*)"', tags)
            if strategy:
                parts = strategy.group(1).split(",")
                text += ("@" + (merge_key.group(1) if merge_key else "")) if "merge" in parts else ""
                text += "!" if "retainKeys" in parts else ""
                text += "~" if "replace" in parts else ""
            list_type = markers.get("listType")
            if list_type == "map":
                text += "%" + markers["listMapKey"]
            elif list_type == "set":
                text += "%set"
            elif "atomic" in (markers.get("mapType"), markers.get("structType")):
                text += "%atomic"
            out.append(text)
        done[short][kind] = " ".join(out)

    def render(shorts: list[str], title: str) -> str:
        lines = [f'"""{title}"""', "", "from __future__ import annotations", ""]
        for short in shorts:
            lines.append(f'{short.upper()} = """')
            for kind in sorted(done[short]):
                body = textwrap.wrap(
                    f"{kind}: {done[short][kind]}",
                    118,
                    subsequent_indent="  ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
                lines.extend(body)
            lines += ['"""', ""]
        return "\n".join(lines).rstrip() + "\n"

    note = "see ``vkprovider.localcluster.schema`` for the notation. Made by tests/unit/localcluster/make_schema.py."
    (target / "core.py").write_text(render(["core"], f"Fields of the core/v1 messages; {note}"))
    (target / "groups.py").write_text(
        render([short for short in PACKAGES if short != "core"], f"Fields of the other messages; {note}")
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
