"""A real kubectl against the local cluster."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from support.kubectl import KubectlError

NODE_STATUS = {
    "status": {
        "phase": "Running",
        "podIP": "10.1.2.3",
        "podIPs": [{"ip": "10.1.2.3"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {
                "name": "c",
                "ready": True,
                "restartCount": 0,
                "image": "busybox:1",
                "imageID": "x",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }
        ],
    }
}
STRATEGIC = "application/strategic-merge-patch+json"
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [
                    {
                        "name": "c",
                        "image": "nginx:1",
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    },
                    {"name": "d", "image": "side:1"},
                ]
            },
        },
    },
}


async def fails(kubectl, *arguments, input=None):
    with pytest.raises(KubectlError) as caught:
        await kubectl.arun(*arguments, input=input)
    return caught.value.stderr


async def test_run_get_describe_and_delete_a_pod(kubectl, client, node):
    await client.ok("POST", "/api/v1/nodes", node("n1"))
    assert "pod/p created" in await kubectl.arun("run", "p", "--image=busybox:1", "--restart=Never", "--", "sleep", "9")
    wide = await kubectl.arun("get", "pods", "-o", "wide")
    assert wide.splitlines()[0].split()[:5] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert wide.splitlines()[1].split()[:3] == ["p", "0/1", "Pending"]
    assert "n1" in wide
    pod = await kubectl.aget("pod", "p")
    assert pod["spec"]["containers"][0]["args"] == ["sleep", "9"]
    await client.ok(
        "PATCH",
        "/api/v1/namespaces/default/pods/p/status",
        json.loads(json.dumps(NODE_STATUS).replace('"name": "c"', '"name": "p"')),
        kind=STRATEGIC,
    )
    await kubectl.arun("wait", "--for=condition=Ready", "pod/p", "--timeout=10s")
    described = await kubectl.arun("describe", "pod", "p")
    assert "Successfully assigned default/p to n1" in described
    assert "QoS Class:" in described
    assert "1/1     Running" in await kubectl.arun("get", "pods")
    await kubectl.arun("delete", "pod", "p", "--wait=false")
    assert "Terminating" in await kubectl.arun("get", "pods")
    await kubectl.arun("delete", "pod", "p", "--grace-period=0", "--force")
    assert await kubectl.arun("get", "pods") == ""


async def test_client_side_apply_three_way_merges(kubectl):
    await kubectl.aapply(DEPLOYMENT)
    await kubectl.arun("scale", "deployment", "web", "--replicas=5")
    await kubectl.arun("set", "env", "deployment/web", "LIVE=yes", "-c", "c")
    changed = json.loads(json.dumps(DEPLOYMENT))
    del changed["spec"]["replicas"]
    changed["spec"]["template"]["spec"]["containers"] = [
        {"name": "c", "image": "nginx:2", "env": [{"name": "B", "value": "3"}]}
    ]
    await kubectl.aapply(changed)
    spec = (await kubectl.aget("deployment", "web"))["spec"]
    containers = spec["template"]["spec"]["containers"]
    assert [c["name"] for c in containers] == ["c"]
    assert containers[0]["image"] == "nginx:2"
    assert {e["name"]: e["value"] for e in containers[0]["env"]} == {"B": "3", "LIVE": "yes"}
    assert spec["replicas"] == 1, "a field taken out of the configuration falls back to its default"


async def test_server_side_apply_and_diff(kubectl):
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1', b: '2'}\n"
    await kubectl.arun("apply", "--server-side", "-f", "-", input=config)
    await kubectl.arun("apply", "--server-side", "-f", "-", input=config.replace(", b: '2'", ""))
    assert (await kubectl.aget("configmap", "c"))["data"] == {"a": "1"}
    with pytest.raises(KubectlError) as caught:
        await kubectl.arun("diff", "-f", "-", input=config)
    assert caught.value.returncode == 1
    assert "+  b:" in caught.value.stdout
    other = config.replace("a: '1'", "a: '9'")
    error = await fails(kubectl, "apply", "--server-side", "--field-manager=other", "-f", "-", input=other)
    assert 'conflict with "kubectl"' in error
    await kubectl.arun("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", input=other)
    assert (await kubectl.aget("configmap", "c"))["data"] == {"a": "9", "b": "2"}


async def test_what_kubectl_makes_up_itself_comes_as_protobuf(kubectl):
    for arguments in (
        "create namespace team",
        "create configmap c --from-literal=a=b",
        "create secret generic s --from-literal=a=b",
        "create serviceaccount sa",
        "create deployment d --image=x:1 --replicas=3 --port=80",
        "create job j --image=x:1 -- echo hi",
        "create cronjob cj --image=x:1 --schedule=0/5****".replace("0/5****", "*/5_*_*_*_*"),
        "create service clusterip svc --tcp=80:8080",
        "create role r --verb=get --resource=pods",
        "create rolebinding rb --role=r --serviceaccount=default:sa",
        "create clusterrole cr --verb=get --resource=nodes",
        "create clusterrolebinding crb --clusterrole=cr --group=g",
        "create quota q --hard=cpu=1500m",
        "create poddisruptionbudget pdb --selector=app=x --min-available=50%",
        "create priorityclass pc --value=-10",
        "create ingress i --rule=a.example/b=svc:80",
    ):
        await kubectl.arun(*(word.replace("_", " ") for word in arguments.split()))
    assert (await kubectl.aget("configmap", "c"))["data"] == {"a": "b"}
    assert base64.b64decode((await kubectl.aget("secret", "s"))["data"]["a"]) == b"b"
    deployment = (await kubectl.aget("deployment", "d"))["spec"]
    assert deployment["replicas"] == 3
    assert deployment["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    job = (await kubectl.aget("job", "j"))["spec"]["template"]["spec"]
    assert job["containers"][0]["command"] == ["echo", "hi"]
    assert job["restartPolicy"] == "Never"
    assert (await kubectl.aget("cronjob", "cj"))["spec"]["schedule"] == "*/5 * * * *"
    assert (await kubectl.aget("service", "svc"))["spec"]["ports"][0]["targetPort"] == 8080
    assert (await kubectl.aget("rolebinding", "rb"))["subjects"][0]["name"] == "sa"
    assert (await kubectl.aget("quota", "q"))["spec"]["hard"] == {"cpu": "1500m"}
    assert (await kubectl.aget("pdb", "pdb"))["spec"]["minAvailable"] == "50%"
    assert (await kubectl.aget("priorityclass", "pc"))["value"] == -10
    ingress = (await kubectl.aget("ingress", "i"))["spec"]["rules"][0]
    assert ingress["http"]["paths"][0]["backend"]["service"] == {"name": "svc", "port": {"number": 80}}
    assert "r" in await kubectl.arun("get", "all,role,quota,pdb,pc,ingress,leases")


async def test_labels_annotations_patches_and_edits(kubectl):
    await kubectl.arun("create", "configmap", "c", "--from-literal=a=b")
    await kubectl.arun("label", "configmap", "c", "x=y", "z=1")
    await kubectl.arun("label", "configmap", "c", "z-")
    await kubectl.arun("annotate", "configmap", "c", "note=hello")
    await kubectl.arun("patch", "configmap", "c", "--type=merge", "-p", '{"data":{"m":"1"}}')
    await kubectl.arun("patch", "configmap", "c", "--type=json", "-p", '[{"op":"remove","path":"/data/a"}]')
    await kubectl.arun("patch", "configmap", "c", "-p", '{"data":{"s":"2"}}')
    found = await kubectl.aget("configmap", "c")
    assert found["metadata"]["labels"] == {"x": "y"}
    assert found["metadata"]["annotations"] == {"note": "hello"}
    assert found["data"] == {"m": "1", "s": "2"}
    assert "c" in await kubectl.arun("get", "configmaps", "-l", "x in (y),!z", "--show-labels")
    replaced = {**found, "data": {"only": "this"}}
    await kubectl.arun("replace", "-f", "-", input=json.dumps(replaced))
    assert "the object has been modified" in await fails(kubectl, "replace", "-f", "-", input=json.dumps(replaced))


async def test_errors_read_as_upstream(kubectl):
    assert 'pods "none" not found' in await fails(kubectl, "get", "pod", "none")
    bad = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c"}], "foo": 1},
    }
    assert 'unknown field "spec.foo"' in await fails(kubectl, "create", "-f", "-", input=json.dumps(bad))
    del bad["spec"]["foo"]
    error = await fails(kubectl, "create", "-f", "-", input=json.dumps(bad))
    assert 'The Pod "p" is invalid: spec.containers[0].image: Required value' in error
    await kubectl.arun("create", "namespace", "n")
    assert 'namespaces "n" already exists' in await fails(kubectl, "create", "namespace", "n")


async def test_cordon_taint_and_drain(kubectl, client, node, pod):
    await client.ok("POST", "/api/v1/nodes", node("n1"))
    await client.ok("POST", "/api/v1/namespaces/default/pods", pod("p", nodeName="n1"))
    await kubectl.arun("taint", "node", "n1", "k=v:NoSchedule")
    await kubectl.arun("cordon", "n1")
    assert "Ready,SchedulingDisabled" in await kubectl.arun("get", "nodes")
    draining = asyncio.create_task(kubectl.arun("drain", "n1", "--force", "--timeout=30s"))
    while "deletionTimestamp" not in (await kubectl.aget("pod", "p"))["metadata"]:
        await asyncio.sleep(0.05)
    await client.ok("DELETE", "/api/v1/namespaces/default/pods/p", {"gracePeriodSeconds": 0})
    assert "node/n1 drained" in await draining
    await kubectl.arun("uncordon", "n1")
    assert "SchedulingDisabled" not in await kubectl.arun("get", "nodes", "-o", "wide")
    await kubectl.arun("taint", "node", "n1", "k-")
    assert "taints" not in (await kubectl.aget("node", "n1"))["spec"]


async def test_who_am_i_and_what_may_i(kubectl):
    assert "system:masters" in await kubectl.arun("auth", "whoami")
    assert (await kubectl.arun("auth", "can-i", "delete", "nodes")).strip() == "yes"
    await kubectl.arun("create", "role", "r", "--verb=get", "--resource=pods")
    await kubectl.arun("create", "rolebinding", "rb", "--role=r", "--user=u")
    assert (await kubectl.arun("auth", "can-i", "get", "pods", "--as=u")).strip() == "yes"
    with pytest.raises(KubectlError) as caught:
        await kubectl.arun("auth", "can-i", "delete", "pods", "--as=u")
    assert caught.value.stdout.strip() == "no"
    assert "pods" in await kubectl.arun("auth", "can-i", "--list", "--as=u")


async def test_a_created_token_works(kubectl, cluster, make_client):
    token = (await kubectl.arun("create", "token", "default", "--duration=1h")).strip()
    other = await make_client(cluster.kubeconfig_path, token=token)
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = await other.ok("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    assert answer["status"]["userInfo"]["username"] == "system:serviceaccount:default:default"


async def test_certificate_approval_signs(kubectl, tmp_path):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    csr = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "jane"},
        "spec": {
            "request": base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
        },
    }
    await kubectl.aapply(csr)
    assert "Pending" in await kubectl.arun("get", "csr")
    await kubectl.arun("certificate", "approve", "jane")
    assert "Approved,Issued" in await kubectl.arun("get", "csr")
    found = await kubectl.aget("csr", "jane")
    certificate = x509.load_pem_x509_certificate(base64.b64decode(found["status"]["certificate"]))
    assert certificate.subject == subject


async def test_namespace_deletion_waits_for_the_content(kubectl):
    await kubectl.arun("create", "namespace", "team")
    await kubectl.arun("--namespace=team", "create", "configmap", "c")
    await kubectl.arun("delete", "namespace", "team", "--timeout=20s")
    assert "not found" in await fails(kubectl, "get", "namespace", "team")


async def test_discovery_explain_and_events(kubectl):
    resources = await kubectl.arun("api-resources", "--verbs=list", "-o", "name")
    assert {"pods", "deployments.apps", "leases.coordination.k8s.io", "events.events.k8s.io"} <= set(resources.split())
    assert "imagePullPolicy" in await kubectl.arun("explain", "pod.spec.containers")
    assert "v1.36" in await kubectl.arun("version")
    await kubectl.arun("run", "p", "--image=x:1")
    async with asyncio.timeout(10):
        while "FailedScheduling" not in await kubectl.arun("events", "--for=pod/p"):
            await asyncio.sleep(0.1)


async def test_get_watch_prints_rows_as_they_change(kubectl, client, pod):
    with kubectl.popen("get", "pods", "--watch") as process:
        try:
            await asyncio.sleep(0)
            await client.ok("POST", "/api/v1/namespaces/default/pods", pod("p", nodeName="n"))
            assert process.stdout is not None
            head = await asyncio.to_thread(process.stdout.readline)
            first = await asyncio.to_thread(process.stdout.readline)
            await client.ok("PATCH", "/api/v1/namespaces/default/pods/p/status", NODE_STATUS, kind=STRATEGIC)
            second = await asyncio.to_thread(process.stdout.readline)
        finally:
            process.kill()
    assert head.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert first.split()[:3] == ["p", "0/1", "Pending"]
    assert second.split()[:3] == ["p", "1/1", "Running"]
