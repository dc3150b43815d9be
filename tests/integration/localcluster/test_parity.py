"""The same requests to a real API server and to the local cluster; the answers must be the same.

Left out of the comparison: identities, versions and times, ``managedFields``, descriptions in tables, and the status of
workloads, which the real cluster's controllers write.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets

import pytest

pytestmark = pytest.mark.controlplane

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_VOLATILE = {"uid", "resourceVersion", "creationTimestamp", "managedFields", "description", "format"}
NS = "/api/v1/namespaces/NS"
APPS = "/apis/apps/v1/namespaces/NS"
UID = "11111111-1111-1111-1111-111111111111"


def pod(name, **spec):
    spec.setdefault("schedulerName", "nobody")
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "busybox"}], **spec}}


RICH = pod(
    "rich",
    containers=[
        {
            "name": "c",
            "image": "reg.example:5000/a/b@sha256:" + "0" * 64,
            "args": ["x"],
            "command": [],
            "ports": [{"containerPort": 80, "name": "web"}],
            "env": [
                {"name": "A", "value": ""},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
            ],
            "envFrom": [{"configMapRef": {"name": "cm"}}],
            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": {"cpu": "0.5"}},
            "livenessProbe": {"httpGet": {"port": 80}},
            "readinessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 3},
            "startupProbe": {"grpc": {"port": 90}},
            "lifecycle": {"postStart": {"exec": {"command": ["a"]}}, "preStop": {"httpGet": {"port": "web"}}},
            "securityContext": {"runAsUser": 0, "runAsNonRoot": False, "capabilities": {"add": ["NET_ADMIN"]}},
            "volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "h", "mountPath": "/h", "readOnly": False}],
            "stdin": False,
            "tty": True,
        },
        {"name": "d", "image": "x:latest"},
    ],
    initContainers=[
        {"name": "i", "image": "x:1"},
        {"name": "s", "image": "y", "restartPolicy": "Always", "readinessProbe": {"exec": {"command": ["t"]}}},
    ],
    volumes=[
        {"name": "e"},
        {"name": "h", "hostPath": {"path": "/x"}},
        {"name": "sec", "secret": {"secretName": "a"}},
        {"name": "cm", "configMap": {"name": "a", "items": [{"key": "k", "path": "p"}]}},
        {
            "name": "da",
            "downwardAPI": {
                "items": [
                    {"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "r", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
                ]
            },
        },
        {"name": "pr", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "q"}}]}},
        {"name": "em", "emptyDir": {"sizeLimit": "1024Mi", "medium": "Memory"}},
    ],
    hostNetwork=True,
    nodeSelector={"a": "b"},
    tolerations=[{"key": "k", "operator": "Exists"}],
    terminationGracePeriodSeconds=0,
    hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a"]}],
    activeDeadlineSeconds=100,
    priorityClassName="system-node-critical",
    securityContext={"fsGroup": 1, "sysctls": []},
    shareProcessNamespace=False,
    hostPID=False,
    enableServiceLinks=False,
)
STATUS = {
    "metadata": {"labels": {"via": "status"}},
    "spec": {"hostname": "no"},
    "status": {
        "phase": "Running",
        "startTime": "2026-01-01T00:00:00Z",
        "podIP": "1.2.3.4",
        "podIPs": [{"ip": "1.2.3.4"}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [
            {
                "name": "c",
                "ready": True,
                "restartCount": 0,
                "image": "i",
                "imageID": "",
                "started": True,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                "lastState": {},
            }
        ],
    },
}
TEMPLATE = {
    "metadata": {"labels": {"a": "b"}},
    "spec": {
        "containers": [
            {
                "name": "c",
                "image": "x",
                "ports": [{"containerPort": 80}, {"containerPort": 81}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            }
        ]
    },
}


def workload(name, **spec):
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE, **spec}}


def bad(**change):
    return pod("bad", **change)


# Each: name, method, path, then body, content type and accept as far as needed.
PODS = [
    ("simple", "POST", f"{NS}/pods", pod("simple")),
    ("rich", "POST", f"{NS}/pods", RICH),
    ("bound", "POST", f"{NS}/pods", pod("bound", nodeName="nowhere", automountServiceAccountToken=False)),
    ("gated", "POST", f"{NS}/pods", pod("gated", schedulingGates=[{"name": "example.com/x"}])),
    ("negative grace", "POST", f"{NS}/pods", pod("ng", terminationGracePeriodSeconds=-5)),
    ("exists", "POST", f"{NS}/pods", pod("simple")),
    ("no namespace", "POST", "/api/v1/namespaces/none/pods", pod("x")),
    ("no containers", "POST", f"{NS}/pods", {"metadata": {"name": "X_y"}, "spec": {}}),
    ("wrong type", "POST", f"{NS}/pods", bad(containers="x")),
    ("wrong type inside", "POST", f"{NS}/pods", bad(containers=[{"name": 1}])),
    ("strict", "POST", f"{NS}/pods?fieldValidation=Strict", bad(foo=1)),
    ("warn", "POST", f"{NS}/pods?fieldValidation=Warn&dryRun=All", bad(foo=1)),
    ("other kind", "POST", f"{NS}/pods", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}),
    ("other namespace", "POST", f"{NS}/pods", {**pod("x"), "metadata": {"name": "x", "namespace": "other"}}),
    ("no account", "POST", f"{NS}/pods", bad(serviceAccountName="nope")),
    ("no priority class", "POST", f"{NS}/pods", bad(priorityClassName="nope")),
    ("no runtime class", "POST", f"{NS}/pods", bad(runtimeClassName="nope")),
    ("empty body", "POST", f"{NS}/pods", ""),
    ("csv", "POST", f"{NS}/pods", "a", "text/csv"),
    ("not found", "GET", f"{NS}/pods/none"),
    ("no such resource", "GET", f"{NS}/nopes"),
    ("create in all namespaces", "POST", "/api/v1/pods", pod("x")),
    ("patch with json", "PATCH", f"{NS}/pods/simple", {"a": 1}, "application/json"),
    ("image", "PATCH", f"{NS}/pods/simple", {"spec": {"containers": [{"name": "c", "image": "b:2"}]}}, STRATEGIC),
    ("old version", "PATCH", f"{NS}/pods/simple", {"metadata": {"resourceVersion": "1", "labels": {"q": "r"}}}, MERGE),
    ("other name", "PATCH", f"{NS}/pods/simple", {"metadata": {"name": "other"}}, MERGE),
    ("patch nothing", "PATCH", f"{NS}/pods/none", {"metadata": {"labels": {"q": "r"}}}, MERGE),
    ("failed test", "PATCH", f"{NS}/pods/simple", [{"op": "test", "path": "/metadata/name", "value": "z"}], JSON_PATCH),
    ("missing path", "PATCH", f"{NS}/pods/simple", [{"op": "remove", "path": "/metadata/labels/z"}], JSON_PATCH),
    ("no list", "PATCH", f"{NS}/pods/simple", {"a": 1}, JSON_PATCH),
    ("no merge key", "PATCH", f"{NS}/pods/simple", {"spec": {"containers": [{"image": "x"}]}}, STRATEGIC),
    ("status", "PATCH", f"{NS}/pods/simple/status", STATUS, STRATEGIC),
    (
        "one more condition",
        "PATCH",
        f"{NS}/pods/simple/status",
        {"status": {"conditions": [{"type": "Initialized", "status": "True"}]}},
        STRATEGIC,
    ),
    ("more tolerations", "PATCH", f"{NS}/pods/simple", {"spec": {"tolerations": [{"key": "x", "operator": "Exists"}]}}, MERGE),
    ("deadline", "PATCH", f"{NS}/pods/simple", {"spec": {"activeDeadlineSeconds": 100}}, MERGE),
    ("longer deadline", "PATCH", f"{NS}/pods/simple", {"spec": {"activeDeadlineSeconds": 200}}, MERGE),
    ("row", "GET", f"{NS}/pods/simple", None, "", TABLE),
    ("by node", "GET", f"{NS}/pods?fieldSelector=spec.nodeName%3Dnowhere"),
    ("bad field", "GET", f"{NS}/pods?fieldSelector=spec.foo%3Dnx"),
    ("bad version", "GET", f"{NS}/pods?resourceVersion=abc"),
    ("put under another name", "PUT", f"{NS}/pods/simple", pod("other")),
    ("put nothing", "PUT", f"{NS}/pods/none", pod("none")),
    ("put another uid", "PUT", f"{NS}/pods/simple", {**pod("simple"), "metadata": {"name": "simple", "uid": UID}}),
    ("delete with another uid", "DELETE", f"{NS}/pods/simple", {"preconditions": {"uid": "123"}}),
    ("bad propagation", "DELETE", f"{NS}/pods/simple", {"propagationPolicy": "Foo"}),
    ("delete dry", "DELETE", f"{NS}/pods/bound?dryRun=All"),
    ("delete bound", "DELETE", f"{NS}/pods/bound"),
    ("lengthen", "DELETE", f"{NS}/pods/bound?gracePeriodSeconds=40"),
    ("shorten", "DELETE", f"{NS}/pods/bound?gracePeriodSeconds=10"),
    ("end while going", "PATCH", f"{NS}/pods/bound/status", {"status": {"phase": "Failed"}}, STRATEGIC),
    ("force", "DELETE", f"{NS}/pods/bound", {"gracePeriodSeconds": 0}),
    ("delete simple", "DELETE", f"{NS}/pods/simple"),
    ("delete again", "DELETE", f"{NS}/pods/simple"),
    ("finalized pod", "POST", f"{NS}/pods", {**pod("f", nodeName="x"), "metadata": {"name": "f", "finalizers": ["a.b/c"]}}),
    ("finalized delete", "DELETE", f"{NS}/pods/f?gracePeriodSeconds=5"),
    ("finalized force", "DELETE", f"{NS}/pods/f?gracePeriodSeconds=0"),
    ("finalized get", "GET", f"{NS}/pods/f"),
    ("finalizer off", "PATCH", f"{NS}/pods/f", {"metadata": {"finalizers": None}}, MERGE),
    ("finalized gone", "GET", f"{NS}/pods/f"),
    ("to bind", "POST", f"{NS}/pods", pod("tb")),
    ("bind", "POST", f"{NS}/pods/tb/binding", {"metadata": {"name": "tb"}, "target": {"kind": "Node", "name": "nx"}}),
    ("bind again", "POST", f"{NS}/pods/tb/binding", {"metadata": {"name": "tb"}, "target": {"kind": "Node", "name": "ny"}}),
    ("bound now", "GET", f"{NS}/pods/tb"),
    ("debug", "PATCH", f"{NS}/pods/tb/ephemeralcontainers", {"spec": {"ephemeralContainers": [{"name": "g", "image": "x"}]}}, STRATEGIC),
    ("log of no container", "GET", f"{NS}/pods/tb/log?container=zz"),
    ("evict", "POST", f"{NS}/pods/tb/eviction", {"metadata": {"name": "tb"}}),
    ("evicted", "GET", f"{NS}/pods/tb"),
    ("evict nothing", "POST", f"{NS}/pods/none/eviction", {"metadata": {"name": "none"}}),
]  # fmt: skip
OTHERS = [
    ("namespace", "GET", "/api/v1/namespaces/NS"),
    ("event", "POST", f"{NS}/events", {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "x", "namespace": "NS"}, "reason": "R", "message": "m", "type": "Normal", "count": 1, "source": {"component": "kubelet", "host": "h"}}),
    ("event elsewhere", "POST", f"{NS}/events", {"metadata": {"name": "e2"}, "involvedObject": {"kind": "Pod", "name": "x", "namespace": "other"}}),
    ("event in the other version", "GET", "/apis/events.k8s.io/v1/namespaces/NS/events/e"),
    ("lease by put", "PUT", "/apis/coordination.k8s.io/v1/namespaces/NS/leases/l", {"metadata": {"name": "l"}, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.123456Z"}}),
    ("lease without version", "PUT", "/apis/coordination.k8s.io/v1/namespaces/NS/leases/l", {"metadata": {"name": "l"}, "spec": {"holderIdentity": "y"}}),
    ("lease conflict", "PUT", "/apis/coordination.k8s.io/v1/namespaces/NS/leases/l", {"metadata": {"name": "l", "resourceVersion": "1"}, "spec": {}}),
    ("config map", "POST", f"{NS}/configmaps", {"metadata": {"name": "c"}, "data": {"a": "b"}}),
    ("bad key", "POST", f"{NS}/configmaps", {"metadata": {"name": "d"}, "data": {"a b": "b"}}),
    ("bad owner", "POST", f"{NS}/configmaps", {"metadata": {"name": "o", "ownerReferences": [{"kind": "Pod", "name": "x"}]}}),
    ("config map row", "GET", f"{NS}/configmaps/c", None, "", TABLE),
    ("delete config map", "DELETE", f"{NS}/configmaps/c"),
    ("finalized", "POST", f"{NS}/configmaps", {"metadata": {"name": "fin", "finalizers": ["a.b/c"]}}),
    ("finalized delete", "DELETE", f"{NS}/configmaps/fin"),
    ("finalized delete again", "DELETE", f"{NS}/configmaps/fin"),
    ("finalizer off", "PATCH", f"{NS}/configmaps/fin", {"metadata": {"finalizers": None}}, MERGE),
    ("apply", "PATCH", f"{NS}/configmaps/ap?fieldManager=m", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ap}\ndata: {a: b}", APPLY),
    ("apply against it", "PATCH", f"{NS}/configmaps/ap?fieldManager=n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ap}\ndata: {a: c}", APPLY),
    ("apply by nobody", "PATCH", f"{NS}/configmaps/ap", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ap}", APPLY),
    ("secret", "POST", f"{NS}/secrets", {"metadata": {"name": "s"}, "stringData": {"a": "b"}}),
    ("headless", "POST", f"{NS}/services", {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]}}),
    ("external", "POST", f"{NS}/services", {"metadata": {"name": "x"}, "spec": {"type": "ExternalName", "externalName": "a.b"}}),
    ("no ports", "POST", f"{NS}/services", {"metadata": {"name": "n"}, "spec": {}}),
    ("deployment", "POST", f"{APPS}/deployments", workload("d", replicas=0, paused=True)),
    ("strategic", "PATCH", f"{APPS}/deployments/d", {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}, "template": {"spec": {"$setElementOrder/containers": [{"name": "new"}, {"name": "c"}], "containers": [{"name": "new", "image": "n"}, {"name": "c", "env": [{"name": "A", "$patch": "delete"}, {"name": "C", "value": "3"}], "ports": [{"containerPort": 80, "$patch": "delete"}]}]}}}}, STRATEGIC),
    ("selector", "PATCH", f"{APPS}/deployments/d", {"spec": {"selector": {"matchLabels": {"z": "z"}}}}, MERGE),
    ("scale", "GET", f"{APPS}/deployments/d/scale"),
    ("selector and labels", "POST", f"{APPS}/deployments", {"metadata": {"name": "d2"}, "spec": {"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}}}),
    ("replica set", "POST", f"{APPS}/replicasets", workload("r", replicas=0)),
    ("cron job", "POST", "/apis/batch/v1/namespaces/NS/cronjobs", {"metadata": {"name": "cj"}, "spec": {"suspend": True, "schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}}}}),
    ("role", "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/NS/roles", {"metadata": {"name": "r"}}),
    ("role binding", "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/NS/rolebindings", {"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "u"}]}),
    ("network policy", "POST", "/apis/networking.k8s.io/v1/namespaces/NS/networkpolicies", {"metadata": {"name": "x"}, "spec": {"podSelector": {}}}),
    ("short token", "POST", f"{NS}/serviceaccounts/default/token", {"spec": {"expirationSeconds": 60}}),
    ("self access", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
    ("access", "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": {"user": "nobody", "resourceAttributes": {"verb": "get", "resource": "pods"}}}),
    ("bad token", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "x"}}),
    ("bad request", "POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", {"metadata": {"name": "NS"}, "spec": {"request": "eA==", "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}}),
    ("unknown group", "GET", "/apis/nope.example/v1"),
    ("wrong method", "PUT", f"{NS}/configmaps", {}),
    *[(f"empty {path}", "GET", f"{path}?labelSelector=none", None, "", TABLE) for path in (
        f"{NS}/pods", f"{NS}/events", f"{NS}/services", f"{NS}/endpoints", f"{NS}/secrets", f"{NS}/resourcequotas",
        f"{NS}/persistentvolumeclaims", "/api/v1/nodes", "/api/v1/persistentvolumes", f"{APPS}/deployments",
        f"{APPS}/replicasets", f"{APPS}/daemonsets", f"{APPS}/statefulsets", "/apis/batch/v1/namespaces/NS/jobs",
        "/apis/batch/v1/namespaces/NS/cronjobs", "/apis/coordination.k8s.io/v1/leases", "/apis/policy/v1/poddisruptionbudgets",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests", "/apis/storage.k8s.io/v1/csinodes",
        "/apis/storage.k8s.io/v1/storageclasses", "/apis/node.k8s.io/v1/runtimeclasses", "/apis/networking.k8s.io/v1/ingresses",
    )],
]  # fmt: skip


def normalize(value, namespace):
    """The answer without what differs between any two clusters."""
    if isinstance(value, dict):
        return {key: normalize(item, namespace) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [normalize(item, namespace) for item in value]
    if isinstance(value, str):
        value = value.replace(namespace, "NS")
        value = re.sub(r"kube-api-access-\w{5}", "kube-api-access-x", value)
        value = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID", value)
        return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", value)
    return value


def differences(real, ours, path=""):
    """Where two answers differ."""
    if isinstance(real, dict) and isinstance(ours, dict):
        for key in sorted({*real, *ours}):
            yield from differences(real.get(key, "(absent)"), ours.get(key, "(absent)"), f"{path}.{key}")
    elif isinstance(real, list) and isinstance(ours, list) and len(real) == len(ours):
        for index, pair in enumerate(zip(real, ours, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif real != ours:
        yield f"{path}: real {json.dumps(real)[:400]}, ours {json.dumps(ours)[:400]}"


@pytest.fixture
async def both(control_plane, cluster, make_client):
    """Clients of both, and a namespace that both have, with its service account."""
    clients = [await make_client(control_plane.kubeconfig), await make_client(cluster.kubeconfig_path)]
    namespace = f"parity-{secrets.token_hex(4)}"
    for client in clients:
        await client.ok("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        async with asyncio.timeout(30):
            while (await client.call("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))[0] != 200:
                await asyncio.sleep(0.1)
    yield clients, namespace
    for client in clients:
        await client.call("DELETE", f"/api/v1/namespaces/{namespace}/pods", {"gracePeriodSeconds": 0})
        await client.call("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest.mark.parametrize("cases", [PODS, OTHERS], ids=["pods", "others"])
async def test_answers_are_those_of_the_real_api_server(both, cases):
    clients, namespace = both
    found = []
    for name, method, path, *rest in cases:
        body = rest[0] if rest else None
        kind, accept = rest[1:3] if len(rest) == 3 else (rest[1] if len(rest) == 2 else JSON, JSON)
        text = body if isinstance(body, str) or body is None else json.dumps(body)
        text = text.replace('"NS"', f'"{namespace}"') if text is not None else None
        answers = []
        for client in clients:
            code, answer = await client.call(
                method, path.replace("NS", namespace), text, kind=kind, headers={"Accept": accept}
            )
            if isinstance(answer, dict) and answer.get("kind") in ("Deployment", "ReplicaSet", "CronJob"):
                answer.pop("status", None)  # the real cluster's controllers are at work
            answers.append({"code": code, "answer": normalize(answer, namespace)})
        found += [f"{name}{difference}" for difference in differences(*answers)]
    assert not found, "\n".join(["", *found])
