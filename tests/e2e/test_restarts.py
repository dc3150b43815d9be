"""The process may end at any moment; the pods go on, and the next process takes them over."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support.controlplane import ControlPlane
from support.kubectl import Kubectl
from support.pods import AgentMaker, Engine, make_pod, wait_gone, wait_ready
from support.waiting import wait_for

pytestmark = pytest.mark.docker
PODS = 20


@pytest.fixture
def engine(node_name: str) -> Iterator[Engine]:
    engine = Engine(node_name)
    yield engine
    engine.close()


@pytest.fixture
def ctl(kubectl: Kubectl, namespace: str) -> Kubectl:
    return kubectl.in_namespace(namespace)


def test_a_killed_process_is_followed_by_one_that_adopts_its_containers(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl, engine: Engine
) -> None:
    agent = make_agent(control_plane.kubeconfig, node_name)
    agent.start()
    agent.wait_ready()
    ctl.apply(make_pod("keeps", node_name), make_pod("ends", node_name, "sleep", "3", restartPolicy="Never"))
    before = wait_ready(ctl, "keeps")
    wait_ready(ctl, "ends")
    ids = engine.ids("keeps")

    agent.kill9()
    assert engine.ids("keeps") == ids
    time.sleep(3.5)  # "ends" ends while nobody looks
    agent.start()
    agent.wait_ready()

    wait_for(lambda: ctl.get("pod", "ends")["status"]["phase"] == "Succeeded", "the end that nobody saw")
    after = ctl.get("pod", "keeps")
    assert engine.ids("keeps") == ids
    assert after["status"]["containerStatuses"][0] == before["status"]["containerStatuses"][0]
    assert after["status"]["startTime"] == before["status"]["startTime"]
    ctl.run("delete", "pod", "keeps", "ends")
    engine.wait_empty()


def test_a_clean_exit_leaves_pods_running_and_the_node_not_ready(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl, engine: Engine
) -> None:
    agent = make_agent(control_plane.kubeconfig, node_name)
    agent.start()
    agent.wait_ready()
    ctl.apply(make_pod("stays", node_name))
    wait_ready(ctl, "stays")
    ids = engine.ids("stays")

    assert agent.stop() == 0
    conditions = {c["type"]: c for c in ctl.get("node", node_name)["status"]["conditions"]}
    assert conditions["Ready"]["status"] == "False"
    assert conditions["Ready"]["reason"] == "KubeletStopped"
    assert engine.ids("stays") == ids

    agent.start()
    agent.wait_ready()
    assert engine.ids("stays") == ids
    ctl.run("delete", "pod", "stays")
    engine.wait_empty()


@pytest.mark.timeout(400)
def test_kill_minus_nine_while_pods_are_made_and_while_they_go_loses_and_doubles_nothing(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl, engine: Engine
) -> None:
    agent = make_agent(control_plane.kubeconfig, node_name)
    agent.start()
    agent.wait_ready()
    ctl.apply(*(make_pod(f"p{index}", node_name) for index in range(PODS)))
    wait_for(lambda: len(engine.containers()) >= PODS // 2, "half of the containers", interval_s=0.02)

    agent.kill9()
    agent.start()
    agent.wait_ready()
    for index in range(PODS):
        pod = wait_ready(ctl, f"p{index}", timeout_s=120)
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    names = engine.names()
    assert len(names) == 2 * PODS, names

    ctl.run("delete", "pods", "--all", "--wait=false")
    wait_for(lambda: len(engine.containers()) < 2 * PODS, "the first container to go", interval_s=0.02)
    agent.kill9()
    agent.start()
    agent.wait_ready()
    wait_gone(ctl, "pods", timeout_s=120)
    engine.wait_empty()


def test_a_pod_deleted_by_force_while_no_process_runs_is_stopped_by_the_next(
    make_agent: AgentMaker, control_plane: ControlPlane, node_name: str, ctl: Kubectl, engine: Engine
) -> None:
    agent = make_agent(control_plane.kubeconfig, node_name)
    agent.start()
    agent.wait_ready()
    ctl.apply(make_pod("orphan", node_name))
    wait_ready(ctl, "orphan")
    agent.kill9()
    ctl.run("delete", "pod", "orphan", "--grace-period=0", "--force")
    agent.start()
    agent.wait_ready()
    engine.wait_empty(timeout_s=90)
