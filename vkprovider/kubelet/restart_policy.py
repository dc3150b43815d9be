"""Whether a container that does not run is to be started again. Pure.

Source: pkg/api/v1/pod/util.go, ContainerShouldRestart; pkg/kubelet/container/helpers.go, ShouldContainerBeRestarted.
"""

from __future__ import annotations

from vkprovider.api import v1
from vkprovider.api.conditions import is_condition_true
from vkprovider.api.pods import get_restart_policy, is_deleted
from vkprovider.kubelet.pod_facts import RESTART_ALL_ACTION, PodFacts
from vkprovider.kubelet.runtime_state import ContainerRecord, RuntimePod
from vkprovider.provider import cri

ALL_CONTAINERS_RESTARTING = "AllContainersRestarting"
"""Condition of a pod whose containers are all being removed to start anew."""


def find_matching_rule(container: v1.Container, exit_code: int) -> v1.ContainerRestartRule | None:
    """The first ``restartPolicyRules`` entry that matches the exit code, or None."""
    for rule in container.get("restartPolicyRules") or ():
        exit_codes = rule.get("exitCodes")
        if exit_codes is None:
            continue
        listed = exit_code in (exit_codes.get("values") or ())
        operator = exit_codes.get("operator")
        if (operator == "In" and listed) or (operator == "NotIn" and not listed):
            return rule
    return None


def should_restart_after_exit(pod: v1.Pod, container: v1.Container, exit_code: int) -> bool:
    """Whether a container that ended with this code is started again: its own rules and policy, else the pod's."""
    own = container.get("restartPolicy")
    if own is not None:
        rule = find_matching_rule(container, exit_code)
        if rule is not None and rule.get("action") in ("Restart", RESTART_ALL_ACTION):
            return True
        if own in ("Always", "OnFailure", "Never"):
            return _policy_restarts(own, exit_code)
    return _policy_restarts(get_restart_policy(pod), exit_code)


def _policy_restarts(policy: str, exit_code: int) -> bool:
    if policy == "OnFailure":
        return exit_code != 0
    return policy != "Never"


def should_start(pod: v1.Pod, container: v1.Container, newest: ContainerRecord | None) -> bool:
    """Whether a container is to be started now: never of a deleted pod, else if it never ran, hangs, or may run again."""
    if is_deleted(pod):
        return False
    if newest is None:
        return True
    if newest.is_running:
        return False
    if newest.state is not cri.ContainerState.EXITED:
        return True
    return should_restart_after_exit(pod, container, newest.exit_code)


def restarts_after_kill(pod: v1.Pod, container: v1.Container) -> bool:
    """Whether a container that a probe's failure kills comes back; rules do not count, as there is no exit code yet."""
    own = container.get("restartPolicy")
    return (own if own is not None else get_restart_policy(pod)) != "Never"


def should_restart_all(pod: v1.Pod, facts: PodFacts, runtime_pod: RuntimePod, previous: v1.PodStatus) -> bool:
    """Whether all containers are to be removed and started anew, because one ended and its rule says so.

    Source: pkg/kubelet/container/helpers.go, ShouldAllContainersRestart.
    """
    if not facts.may_restart_all:
        return False
    if is_condition_true(previous, ALL_CONTAINERS_RESTARTING):
        return True
    statuses = {
        status["name"]: status
        for group in (previous.get("initContainerStatuses"), previous.get("containerStatuses"))
        for status in group or ()
    }
    for container in (*facts.init, *facts.apps):
        record = runtime_pod.find(container.name)
        if record is None or record.state is not cri.ContainerState.EXITED:
            # As upstream: an old status only counts next to a record that has exited.
            continue
        if _restarts_all(container.spec, record.exit_code):
            return True
        terminated = statuses.get(container.name, {}).get("state", {}).get("terminated")
        if terminated is not None and _restarts_all(container.spec, terminated.get("exitCode", 0)):
            return True
    return False


def _restarts_all(container: v1.Container, exit_code: int) -> bool:
    rule = find_matching_rule(container, exit_code)
    return rule is not None and rule.get("action") == RESTART_ALL_ACTION


def triggered_restart_all(container: v1.Container, record: ContainerRecord) -> bool:
    """Whether this instance's end is what makes all containers restart."""
    return record.state is cri.ContainerState.EXITED and _restarts_all(container, record.exit_code)
