"""Pods as real containers on the Docker Engine, through a real control plane and kubectl."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from support.controlplane import ControlPlane
from support.images import BUSYBOX_IMAGE
from support.kubectl import Kubectl, KubectlError
from support.pods import AgentMaker, Engine, event_reasons, make_pod, wait_gone, wait_phase, wait_ready
from support.waiting import wait_for

pytestmark = pytest.mark.docker


@pytest.fixture
def engine(node_name: str) -> Iterator[Engine]:
    engine = Engine(node_name)
    yield engine
    engine.close()


@pytest.fixture
def ctl(kubectl: Kubectl, namespace: str) -> Kubectl:
    return kubectl.in_namespace(namespace)


@pytest.fixture
def node(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl, engine: Engine
) -> Iterator[str]:
    """A Docker node that is Ready and takes any pod that names it; at the end its pods are deleted, and it with them."""
    agent = make_agent(
        control_plane.kubeconfig, node_name, arguments=["--register-with-taints=test.vkprovider.io/own=true:NoSchedule"]
    )
    agent.start()
    agent.wait_ready()
    yield node_name
    ctl.run("delete", "deployments,jobs,pods", "--all", "--grace-period=1", "--wait=false")
    wait_gone(ctl, "pods")
    engine.wait_empty()
    agent.stop()
    ctl.run("delete", "node", node_name)


def on_node(node: str) -> dict[str, object]:
    """Scheduling fields that bring a pod to a node through the scheduler."""
    return {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "tolerations": [{"key": "test.vkprovider.io/own", "operator": "Exists"}],
    }


def test_a_pod_runs_shows_its_log_and_goes_away(node: str, ctl: Kubectl, engine: Engine) -> None:
    overrides = json.dumps({"spec": {**on_node(node), "terminationGracePeriodSeconds": 3}})
    script = "echo hello; trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done"
    ctl.run("run", "one", f"--image={BUSYBOX_IMAGE}", f"--overrides={overrides}", "--", "sh", "-c", script)

    pod = wait_ready(ctl, "one")
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"]
    assert pod["status"]["qosClass"] == "BestEffort"
    status = pod["status"]["containerStatuses"][0]
    assert status["containerID"].startswith("docker://")
    assert (status["ready"], status["started"], status["restartCount"]) == (True, True, 0)
    uid = pod["metadata"]["uid"]
    namespace = ctl.namespace
    assert engine.names() == [f"k8s_POD_one_{namespace}_{uid}_0", f"k8s_one_one_{namespace}_{uid}_0"]
    assert ctl.run("logs", "one") == "hello\n"
    wide = ctl.run("get", "pod", "one", "-o", "wide")
    for word in ("1/1", "Running", node):
        assert word in wide
    description = ctl.run("describe", "pod", "one")
    for line in ("Container created", "Container started", "already present on machine and can be accessed by the pod"):
        assert line in description

    began = time.monotonic()
    ctl.run("delete", "pod", "one")
    assert time.monotonic() - began < 20
    wait_gone(ctl, "pod", "one")
    engine.wait_empty()
    reasons = event_reasons(ctl, "one")
    assert reasons["Killing"] == 1
    assert reasons["Created"] == reasons["Started"] == reasons["Pulled"] == 1


def test_logs_follow_until_the_container_ends(node: str, ctl: Kubectl) -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; sleep 0.3; done"
    ctl.apply(make_pod("talker", node, "sh", "-c", script, restartPolicy="Never"))
    wait_for(lambda: ctl.get("pod", "talker")["status"].get("containerStatuses"), "the first status")
    wait_for(lambda: "waiting" not in ctl.get("pod", "talker")["status"]["containerStatuses"][0]["state"], "the start")

    assert ctl.run("logs", "-f", "talker").splitlines() == [f"line {i}" for i in range(1, 6)]
    wait_phase(ctl, "talker", "Succeeded")
    assert ctl.run("logs", "--tail=2", "talker").splitlines() == ["line 4", "line 5"]
    stamped = ctl.run("logs", "--timestamps", "--tail=1", "talker")
    stamp, _, text = stamped.strip().partition(" ")
    assert text == "line 5"
    assert len(stamp) == len("2026-01-01T00:00:00.000000000Z")
    assert ctl.run("logs", "--limit-bytes=4", "talker") == "line"
    with pytest.raises(KubectlError, match='previous terminated container "c" in pod "talker" not found'):
        ctl.run("logs", "--previous", "talker")


def test_a_job_completes_and_a_failing_pod_tells_its_exit_code(node: str, ctl: Kubectl) -> None:
    template = make_pod("unused", None, "sh", "-c", "echo done", restartPolicy="Never", **on_node(node))
    template["metadata"].pop("name")
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work"},
        "spec": {
            "completions": 3,
            "parallelism": 2,
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    }
    ctl.apply(job, make_pod("broken", node, "sh", "-c", "exit 3", restartPolicy="Never"))

    ctl.run("wait", "--for=condition=complete", "job/work", "--timeout=60s")
    pod = wait_phase(ctl, "broken", "Failed")
    terminated = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (3, "Error")
    assert {c["type"]: (c["status"], c.get("reason")) for c in pod["status"]["conditions"]}["Ready"] == (
        "False",
        "PodFailed",
    )


def test_a_deployment_scales_up_and_down(node: str, ctl: Kubectl, engine: Engine) -> None:
    pod = make_pod("web", None, **on_node(node))
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 5,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod["spec"]},
        },
    }
    ctl.apply(deployment)
    ctl.run("rollout", "status", "deployment/web", "--timeout=90s", timeout=100)
    assert len(engine.containers()) == 10
    ctl.run("scale", "deployment/web", "--replicas=10")
    ctl.run("rollout", "status", "deployment/web", "--timeout=90s", timeout=100)
    addresses = {item["status"]["podIP"] for item in ctl.get("pods", "-l", "app=web")["items"]}
    assert len(addresses) == 10
    ctl.run("scale", "deployment/web", "--replicas=0")
    wait_gone(ctl, "pods", "-l", "app=web")
    engine.wait_empty()


def test_a_forced_deletion_still_stops_the_containers(node: str, ctl: Kubectl, engine: Engine) -> None:
    ctl.apply(make_pod("stubborn", node, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"))
    wait_ready(ctl, "stubborn")
    ctl.run("delete", "pod", "stubborn", "--grace-period=0", "--force")
    wait_gone(ctl, "pod", "stubborn", timeout_s=5)
    engine.wait_empty()


def test_the_grace_period_is_given_and_can_be_shortened(node: str, ctl: Kubectl, engine: Engine) -> None:
    script = "trap '' TERM; while :; do sleep 0.1; done"
    ctl.apply(make_pod("slow", node, "sh", "-c", script, terminationGracePeriodSeconds=120))
    wait_ready(ctl, "slow")
    ctl.run("delete", "pod", "slow", "--wait=false")
    time.sleep(2)
    assert ctl.get("pod", "slow")["metadata"]["deletionGracePeriodSeconds"] == 120
    began = time.monotonic()
    ctl.run("delete", "pod", "slow", "--grace-period=3", timeout=40)
    assert 1 < time.monotonic() - began < 20
    engine.wait_empty()


def test_a_container_that_ends_is_restarted_with_growing_pauses(node: str, ctl: Kubectl) -> None:
    ctl.apply(make_pod("crash", node, "sh", "-c", "echo run; exit 1"))

    def crash_looping() -> dict[str, object] | None:
        statuses = ctl.get("pod", "crash")["status"].get("containerStatuses") or [{}]
        waiting = statuses[0].get("state", {}).get("waiting", {})
        return statuses[0] if waiting.get("reason") == "CrashLoopBackOff" else None

    status = wait_for(crash_looping, "CrashLoopBackOff")
    assert status is not None
    assert status["lastState"]["terminated"]["exitCode"] == 1  # type: ignore[index]
    assert status["restartCount"] == 1
    uid = ctl.get("pod", "crash")["metadata"]["uid"]
    message = f"back-off 10s restarting failed container=c pod=crash_{ctl.namespace}({uid})"
    assert status["state"]["waiting"]["message"] == message  # type: ignore[index]
    assert ctl.get("pod", "crash")["status"]["phase"] == "Running"
    wait_for(lambda: ctl.get("pod", "crash")["status"]["containerStatuses"][0]["restartCount"] == 2, "restart 2")
    times = {
        item["status"]["containerStatuses"][0]["lastState"]["terminated"]["finishedAt"]
        for item in [ctl.get("pod", "crash")]
    }
    assert all(datetime.fromisoformat(moment) for moment in times)
    assert ctl.run("logs", "crash", "--previous") == "run\n"
    assert event_reasons(ctl, "crash")["BackOff"] >= 1


def test_an_image_that_cannot_be_had_backs_off_with_the_engines_words(node: str, ctl: Kubectl) -> None:
    pod = make_pod("noimage", node)
    pod["spec"]["containers"][0]["image"] = "registry.invalid/nothing:1"
    never = make_pod("never", node)
    never["spec"]["containers"][0].update(image="registry.invalid/other:1", imagePullPolicy="Never")
    bad = make_pod("badname", node)
    bad["spec"]["containers"][0]["image"] = "library/UPPER:1"
    ctl.apply(pod, never, bad)

    def waiting(name: str) -> str:
        statuses = ctl.get("pod", name)["status"].get("containerStatuses") or [{}]
        return str(statuses[0].get("state", {}).get("waiting", {}).get("reason"))

    wait_for(lambda: waiting("noimage") in ("ErrImagePull", "ImagePullBackOff"), "a pull error")
    wait_for(lambda: waiting("never") == "ErrImageNeverPull", "ErrImageNeverPull")
    wait_for(lambda: waiting("badname") == "InvalidImageName", "InvalidImageName")
    description = ctl.run("describe", "pod", "noimage")
    assert 'Failed to pull image "registry.invalid/nothing:1"' in description
    assert ctl.get("pod", "noimage")["status"]["phase"] == "Pending"


def test_environment_and_downward_values_reach_the_container(node: str, ctl: Kubectl) -> None:
    ctl.run("create", "configmap", "settings", "--from-literal=COLOUR=blue", "--from-literal=SIZE=9")
    ctl.run("create", "secret", "generic", "hidden", "--from-literal=key=s3cret")
    script = 'echo "$COLOUR $SIZE $KEY $POD_NAME $NODE $IP $GREETING"; sleep 3600'
    pod = make_pod("env", node, "sh", "-c", script)
    pod["spec"]["containers"][0].update(
        envFrom=[{"configMapRef": {"name": "settings"}}],
        env=[
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "key"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "GREETING", "value": "hi-$(POD_NAME)"},
        ],
    )
    ctl.apply(pod)
    ip = wait_ready(ctl, "env")["status"]["podIP"]
    wait_for(lambda: ctl.run("logs", "env"), "the log")
    assert ctl.run("logs", "env") == f"blue 9 s3cret env {node} {ip} hi-env\n"


def test_a_missing_config_map_is_told_and_waited_for(node: str, ctl: Kubectl) -> None:
    pod = make_pod("later", node)
    pod["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "absent"}}]
    ctl.apply(pod)

    def waiting() -> dict[str, str]:
        statuses = ctl.get("pod", "later")["status"].get("containerStatuses") or [{}]
        found: dict[str, str] = statuses[0].get("state", {}).get("waiting", {})
        return found

    wait_for(lambda: waiting().get("reason") == "CreateContainerConfigError", "CreateContainerConfigError")
    assert waiting()["message"] == 'configmap "absent" not found'
    ctl.run("create", "configmap", "absent", "--from-literal=A=b")
    wait_ready(ctl, "later", timeout_s=45)


def test_the_injected_token_volume_works_and_a_claim_that_is_missing_is_waited_for(node: str, ctl: Kubectl) -> None:
    with_token = make_pod("token", node)
    with_volume = make_pod("volume", node, volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}])
    with_volume["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
    ctl.apply(with_token, with_volume)

    wait_ready(ctl, "token")
    wait_for(lambda: event_reasons(ctl, "volume")["FailedMount"], "event FailedMount")
    statuses = ctl.get("pod", "volume")["status"]["containerStatuses"]
    assert statuses[0]["state"]["waiting"]["reason"] == "ContainerCreating"
    assert 'persistentvolumeclaims "none" not found' in ctl.run("describe", "pod", "volume")
    directory = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert ctl.run("exec", "token", "--", "cat", f"{directory}/namespace") == ctl.namespace
    assert ctl.run("exec", "token", "--", "cat", f"{directory}/token").count(".") == 2
    assert "UnsupportedField" not in event_reasons(ctl, "token")


def test_a_host_port_leads_into_the_pod(node: str, ctl: Kubectl) -> None:
    import urllib.request

    from support.ports import free_port, host_ip

    port = free_port(host="0.0.0.0")
    pod = make_pod("www", node, "sh", "-c", "mkdir /www; echo page > /www/index.html; httpd -f -p 8080 -h /www")
    pod["spec"]["containers"][0]["ports"] = [{"containerPort": 8080, "hostPort": port}]
    ctl.apply(pod)
    wait_ready(ctl, "www")

    def read() -> bytes:
        try:
            with urllib.request.urlopen(f"http://{host_ip()}:{port}/index.html", timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            return b""

    assert wait_for(read, "the page") == b"page\n"


def test_containers_of_a_pod_share_network_and_ipc_but_not_processes(node: str, ctl: Kubectl) -> None:
    pod = make_pod("pair", node, "sh", "-c", "mkdir /www; echo shared > /www/i; httpd -f -p 127.0.0.1:8081 -h /www")
    second = {**pod["spec"]["containers"][0], "name": "d"}
    second["command"] = ["sh", "-c", "until wget -q -O - http://127.0.0.1:8081/i; do sleep 0.1; done; ps; sleep 3600"]
    pod["spec"]["containers"].append(second)
    ctl.apply(pod)
    wait_ready(ctl, "pair")
    text = wait_for(lambda: "sleep 3600" in (log := ctl.run("logs", "pair", "-c", "d")) and log, "the log of d")
    assert "shared" in str(text)
    assert "httpd" not in str(text)


def test_hundreds_of_events_are_counted_not_repeated(node: str, ctl: Kubectl) -> None:
    ctl.apply(make_pod("again", node, "sh", "-c", "exit 1", restartPolicy="Always"))
    wait_for(lambda: event_reasons(ctl, "again")["BackOff"], "event BackOff")
    counts = event_reasons(ctl, "again")
    assert counts["BackOff"] == 1
    assert counts["Created"] <= 2
