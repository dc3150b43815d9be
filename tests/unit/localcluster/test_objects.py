"""Create and update: defaults, admission, validation, status isolation, conflicts."""

from __future__ import annotations

import pytest

from vkprovider.localcluster.apply import apply_configuration
from vkprovider.localcluster.objects import WriteOptions
from vkprovider.localcluster.status import APIStatusError


def test_defaults_of_a_pod(world, make_pod):
    pod = world.create("pods", make_pod()).obj
    spec = pod["spec"]
    assert {
        key: spec[key]
        for key in (
            "restartPolicy",
            "dnsPolicy",
            "schedulerName",
            "terminationGracePeriodSeconds",
            "securityContext",
            "enableServiceLinks",
            "serviceAccountName",
            "serviceAccount",
            "priority",
            "preemptionPolicy",
        )
    } == {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        "enableServiceLinks": True,
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    assert [(t["key"], t["tolerationSeconds"]) for t in spec["tolerations"]] == [
        ("node.kubernetes.io/not-ready", 300),
        ("node.kubernetes.io/unreachable", 300),
    ]
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert pod["metadata"]["generation"] == 1
    container = spec["containers"][0]
    assert container["terminationMessagePath"] == "/dev/termination-log"
    assert container["terminationMessagePolicy"] == "File"
    volume = spec["volumes"][0]
    assert container["volumeMounts"] == [
        {"name": volume["name"], "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    ]
    assert volume["projected"]["sources"][0] == {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.36", "IfNotPresent"),
        ("reg:5000/busybox", "Always"),
        ("reg:5000/a/b:2", "IfNotPresent"),
        ("busybox@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_default_pull_policy(world, make_pod, image, policy):
    pod = world.create("pods", make_pod(containers=[{"name": "c", "image": image}])).obj
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_requests_follow_limits_and_make_the_qos_class(world, make_pod):
    resources = {"limits": {"cpu": "1000m", "memory": "1024Mi"}}
    pod = world.create("pods", make_pod(containers=[{"name": "c", "image": "x", "resources": resources}])).obj
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert pod["status"]["qosClass"] == "Guaranteed"


def test_probe_port_volume_and_env_defaults(world, make_pod):
    container = {
        "name": "c",
        "image": "x",
        "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"port": 80}},
        "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    volumes = [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}}]
    spec = world.create("pods", make_pod(containers=[container], volumes=volumes)).obj["spec"]
    found = spec["containers"][0]
    assert found["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert found["readinessProbe"] == {
        "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert found["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert spec["volumes"][:3] == [
        {"name": "e", "emptyDir": {}},
        {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
        {"name": "h", "hostPath": {"path": "/", "type": ""}},
    ]


def test_no_token_is_mounted_when_pod_or_account_say_so(world, make_pod):
    pod = world.create("pods", make_pod(automountServiceAccountToken=False)).obj
    assert "volumes" not in pod["spec"]
    world.create("serviceaccounts", {"metadata": {"name": "quiet"}, "automountServiceAccountToken": False})
    other = world.create("pods", make_pod("q", serviceAccountName="quiet")).obj
    assert "volumes" not in other["spec"]
    loud = world.create("pods", make_pod("l", serviceAccountName="quiet", automountServiceAccountToken=True)).obj
    assert len(loud["spec"]["volumes"]) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"serviceAccountName": "no"}, 'error looking up service account default/no: serviceaccount "no" not found'),
        ({"priorityClassName": "no"}, "no PriorityClass with name no was found"),
        ({"runtimeClassName": "no"}, 'RuntimeClass "no" not found'),
    ],
)
def test_admission_refuses_what_is_not_there(world, make_pod, spec, message):
    with pytest.raises(APIStatusError, match=message) as caught:
        world.create("pods", make_pod(**spec))
    assert caught.value.code == 403


def test_priority_class_gives_the_priority(world, make_pod):
    assert (
        world.create("pods", make_pod(priorityClassName="system-node-critical")).obj["spec"]["priority"] == 2000001000
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"containers": []}, "spec.containers"),
        ({"containers": [{"name": "c"}]}, "spec.containers[0].image"),
        ({"containers": [{"image": "x"}]}, "spec.containers[0].name"),
        ({"containers": [{"name": "c", "image": "x"}, {"name": "c", "image": "x"}]}, "spec.containers[1].name"),
        ({"restartPolicy": "Perhaps"}, "spec.restartPolicy"),
        ({"activeDeadlineSeconds": 0}, "spec.activeDeadlineSeconds"),
        ({"hostname": "A_b"}, "spec.hostname"),
        ({"tolerations": [{"operator": "Equal"}]}, "spec.tolerations[0].operator"),
        ({"volumes": [{"name": "v", "hostPath": {}}]}, "spec.volumes[0].hostPath.path"),
        (
            {"containers": [{"name": "c", "image": "x", "volumeMounts": [{"name": "no", "mountPath": "/"}]}]},
            "spec.containers[0].volumeMounts[0].name",
        ),
        (
            {
                "containers": [
                    {"name": "c", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}
                ]
            },
            "spec.containers[0].resources.requests",
        ),
        ({"containers": [{"name": "c", "image": "x", "livenessProbe": {}}]}, "spec.containers[0].livenessProbe"),
        (
            {
                "hostNetwork": True,
                "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 1, "hostPort": 2}]}],
            },
            "spec.containers[0].ports[0].hostPort",
        ),
    ],
)
def test_invalid_pod_names_the_field(world, make_pod, change, field):
    with pytest.raises(APIStatusError) as caught:
        world.create("pods", make_pod(**change))
    assert caught.value.code == 422
    assert field in [cause["field"] for cause in caught.value.details["causes"]]


def test_wrong_types_are_400_with_the_path(world, make_pod):
    with pytest.raises(APIStatusError, match=r"Container.spec.containers.image of type string") as caught:
        world.create("pods", make_pod(containers=[{"name": "c", "image": 5}]))
    assert caught.value.code == 400


def test_unknown_fields_vanish_or_are_refused(world, make_pod):
    options = WriteOptions()
    resource = world.registry.get("pods")
    pod = make_pod(containers=[{"name": "c", "image": "x", "extra": 1}], other=2)
    stored = world.objects.create(resource, "default", pod, options)
    assert options.unknown == ["spec.containers[0].extra", "spec.other"]
    assert "other" not in stored.obj["spec"]
    with pytest.raises(APIStatusError, match=r'strict decoding error: unknown field "spec.containers\[0\].extra"'):
        world.objects.create(resource, "default", {**pod, "metadata": {"name": "q"}}, WriteOptions(strict=True))


def test_generate_name_and_name_taken(world, make_pod):
    pod = make_pod()
    pod["metadata"] = {"generateName": "web-"}
    first, second = world.create("pods", pod).obj, world.create("pods", pod).obj
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert first["metadata"]["name"].startswith("web-")
    assert len(first["metadata"]["name"]) == len("web-") + 5
    world.create("pods", make_pod("x"))
    with pytest.raises(APIStatusError, match='pods "x" already exists'):
        world.create("pods", make_pod("x"))


def test_namespace_must_be_there(world, make_pod):
    with pytest.raises(APIStatusError, match='namespaces "none" not found') as caught:
        world.create("pods", make_pod(), namespace="none")
    assert caught.value.code == 404


def test_status_patch_leaves_the_spec_and_counts_no_generation(world, make_pod):
    world.create("pods", make_pod())

    def change(old):
        return {
            **old,
            "metadata": {**old["metadata"], "labels": {"a": "b"}, "ownerReferences": [{"uid": "x"}]},
            "spec": {"hostname": "changed"},
            "status": {**old["status"], "phase": "Running"},
        }

    pod = world.update("pods", "p", change, subresource="status").obj
    assert pod["status"]["phase"] == "Running"
    assert "hostname" not in pod["spec"]
    assert pod["metadata"]["labels"] == {"a": "b"}
    assert "ownerReferences" not in pod["metadata"]
    assert pod["metadata"]["generation"] == 1


def test_plain_update_leaves_the_status(world, make_pod):
    world.create("pods", make_pod())
    pod = world.update("pods", "p", lambda old: {**old, "status": {"phase": "Failed"}}).obj
    assert pod["status"]["phase"] == "Pending"


def test_only_the_image_of_a_pod_may_change(world, make_pod):
    world.create("pods", make_pod())

    def image(old):
        return {**old, "spec": {**old["spec"], "containers": [{**old["spec"]["containers"][0], "image": "other:1"}]}}

    pod = world.update("pods", "p", image).obj
    assert pod["spec"]["containers"][0]["image"] == "other:1"
    assert pod["metadata"]["generation"] == 2
    with pytest.raises(APIStatusError, match="pod updates may not change fields other than"):
        world.update("pods", "p", lambda old: {**old, "spec": {**old["spec"], "nodeName": "n"}})


def test_nothing_changed_keeps_the_version(world, make_pod):
    stored = world.create("pods", make_pod())
    assert world.update("pods", "p", lambda old: old) is stored


def test_conflicts(world, make_pod):
    stored = world.create("pods", make_pod())

    def with_version(version):
        return lambda old: {
            **old,
            "metadata": {**old["metadata"], "resourceVersion": version, "labels": {"v": version}},
        }

    world.update("pods", "p", with_version(str(stored.version)))
    with pytest.raises(APIStatusError, match="the object has been modified") as caught:
        world.update("pods", "p", with_version(str(stored.version)))
    assert caught.value.code == 409
    with pytest.raises(APIStatusError, match="field is immutable") as caught:
        world.update("pods", "p", lambda old: {**old, "metadata": {**old["metadata"], "uid": "other"}})
    assert caught.value.code == 422


def test_a_put_of_a_lease_needs_the_version(world):
    world.create("leases", {"metadata": {"name": "l"}}, group="coordination.k8s.io")
    resource = world.registry.get("leases", "coordination.k8s.io")
    with pytest.raises(APIStatusError, match=r"metadata.resourceVersion: Invalid value: 0: must be specified"):
        world.objects.update(resource, "default", "l", lambda old: {"metadata": {"name": "l"}}, WriteOptions())


def test_dry_run_stores_nothing(world, make_pod):
    resource = world.registry.get("pods")
    world.objects.create(resource, "default", make_pod(), WriteOptions(dry_run=True))
    assert world.find("pods", "p") is None


def test_a_new_namespace_gets_its_account_and_root_ca(world):
    world.create("namespaces", {"metadata": {"name": "team"}})
    assert world.find("serviceaccounts", "default", namespace="team")
    assert world.find("configmaps", "kube-root-ca.crt", namespace="team")["data"] == {"ca.crt": "PEM"}


def test_services_get_addresses(world):
    assert world.find("services", "kubernetes")["spec"]["clusterIP"] == "10.96.0.1"
    spec = {"ports": [{"port": 80}], "type": "NodePort"}
    service = world.create("services", {"metadata": {"name": "s"}, "spec": spec}).obj["spec"]
    assert service["clusterIP"] == "10.96.0.2"
    assert service["ports"][0]["targetPort"] == 80
    assert service["ports"][0]["nodePort"] >= 30000
    headless = {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}
    assert world.create("services", headless).obj["spec"]["clusterIP"] == "None"
    with pytest.raises(APIStatusError, match="provided IP is already allocated"):
        world.create(
            "services", {"metadata": {"name": "t"}, "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 1}]}}
        )


def test_secret_string_data_becomes_data(world):
    secret = world.create("secrets", {"metadata": {"name": "s"}, "stringData": {"a": "b"}}).obj
    assert secret["data"] == {"a": "Yg=="}
    assert "stringData" not in secret
    assert secret["type"] == "Opaque"


def test_server_side_apply_owns_removes_and_conflicts(world):
    resource = world.registry.get("configmaps")
    world.create("configmaps", {"metadata": {"name": "c"}, "data": {"theirs": "1"}})

    def apply(manager, data, force=False):
        wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}
        return world.update(
            "configmaps", "c", lambda old: apply_configuration(old, wanted, resource, manager=manager, force=force)
        ).obj

    assert apply("a", {"x": "1", "y": "2"})["data"] == {"theirs": "1", "x": "1", "y": "2"}
    assert apply("a", {"x": "1"})["data"] == {"theirs": "1", "x": "1"}
    with pytest.raises(APIStatusError, match=r'Apply failed with 1 conflict: conflict with "a": .data.x') as caught:
        apply("b", {"x": "9"})
    assert caught.value.code == 409
    forced = apply("b", {"x": "9"}, force=True)
    assert forced["data"]["x"] == "9"
    assert [entry["manager"] for entry in forced["metadata"]["managedFields"]] == ["b"]
    version = forced["metadata"]["resourceVersion"]
    assert apply("b", {"x": "9"}, force=True)["metadata"]["resourceVersion"] == version


def test_server_side_apply_merges_keyed_lists(world, make_pod):
    resource = world.registry.get("pods")
    world.create("pods", make_pod(containers=[{"name": "c", "image": "a"}, {"name": "d", "image": "b"}]))
    wanted = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "d", "image": "z"}]}}
    pod = world.update(
        "pods", "p", lambda old: apply_configuration(old, wanted, resource, manager="m", force=False)
    ).obj
    assert [c["image"] for c in pod["spec"]["containers"]] == ["a", "z"]
