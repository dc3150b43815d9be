"""The language of behaviours: where it is said, what wins, and how mistakes are reported."""

import json

import pytest

from vkprovider.backends.memory.behaviour import (
    BEHAVIOUR_ANNOTATION,
    Behaviour,
    ExecBehaviour,
    find_image_behaviour,
    get_sandbox_behaviour,
    parse_behaviour,
    resolve_behaviour,
)
from vkprovider.errors import ConfigurationError


def annotate(value):
    return {BEHAVIOUR_ANNOTATION: json.dumps(value)}


def test_nothing_said_is_the_default():
    assert resolve_behaviour("c") == Behaviour()


def test_pod_annotation_speaks_of_one_container():
    found = annotate({"containers": {"c": {"run_s": 3, "exit_code": 1, "ignore_sigterm": True}}})
    assert resolve_behaviour("c", pod_annotations=found) == Behaviour(run_s=3.0, exit_code=1, ignore_sigterm=True)
    assert resolve_behaviour("other", pod_annotations=found) == Behaviour()


def test_star_speaks_of_all_and_a_name_wins_field_by_field():
    found = annotate({"containers": {"*": {"exit_code": 1, "run_s": 2}, "c": {"exit_code": 5}}})
    assert resolve_behaviour("c", pod_annotations=found) == Behaviour(exit_code=5, run_s=2.0)
    assert resolve_behaviour("d", pod_annotations=found) == Behaviour(exit_code=1, run_s=2.0)


def test_container_annotation_wins_over_the_pod():
    pod = annotate({"containers": {"c": {"exit_code": 1, "shutdown_s": 4}}})
    found = resolve_behaviour("c", pod_annotations=pod, annotations=annotate({"exit_code": 2}))
    assert found == Behaviour(exit_code=2, shutdown_s=4.0)


def test_command_wins_over_the_end_that_the_image_says():
    base = Behaviour(run_s=1.0, exit_code=3, ignore_sigterm=True)
    assert resolve_behaviour("c", base=base) == base
    assert resolve_behaviour("c", base=base, has_command=True) == Behaviour(ignore_sigterm=True)


def test_exit_codes_go_by_attempt():
    behaviour = Behaviour(exit_codes=(1, 2, 0))
    assert [behaviour.get_exit_code(attempt) for attempt in range(5)] == [1, 2, 0, 0, 0]
    assert Behaviour(exit_code=7).get_exit_code(3) == 7
    assert Behaviour(oom_killed=True).get_exit_code(0) == 137


@pytest.mark.parametrize(
    ("repository", "tag", "behaviour"),
    [
        ("run", "latest", Behaviour()),
        ("exit", "3", Behaviour(run_s=0.0, exit_code=3)),
        ("sleep", "2.5", Behaviour(run_s=2.5, exit_code=0)),
        ("crash", "5", Behaviour(run_s=5.0, exit_code=1)),
        ("oom", "1", Behaviour(run_s=1.0, oom_killed=True)),
        ("stubborn", "latest", Behaviour(ignore_sigterm=True)),
        ("logger", "10", Behaviour(log_lines_per_s=10.0)),
        ("missing", "1", None),
    ],
)
def test_images_of_the_local_registry_behave_as_they_are_called(repository, tag, behaviour):
    assert find_image_behaviour(repository, tag) == behaviour


def test_sandbox_behaviour_is_read():
    found = get_sandbox_behaviour(annotate({"sandbox": {"error": "no network", "start_delay_s": 2}}))
    assert (found.error, found.start_delay_s) == ("no network", 2.0)


def test_listeners_and_commands_are_read():
    fields = parse_behaviour({"listen": {"80": "http"}, "exec": {"check": {"exit_code": 1, "stdout": "bad"}}})
    assert fields == {"listen": {80: "http"}, "exec": {"check": ExecBehaviour(exit_code=1, stdout="bad")}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"containers": {"c": {"exitcode": 1}}}, r"containers\.c: unknown key 'exitcode'; known are .*exit_code"),
        ({"containers": {"c": {"exit_code": "1"}}}, r"containers\.c\.exit_code must be a whole number"),
        ({"containers": {"c": {"exit_code": -1}}}, "of at least 0"),
        ({"containers": {"c": {"run_s": True}}}, r"run_s must be a number"),
        ({"containers": {"c": {"ignore_sigterm": 1}}}, "must be true or false"),
        ({"containers": {"c": {"exit_codes": []}}}, "must be a list of exit codes"),
        ({"containers": {"c": {"listen": {"0": "http"}}}}, "'0' is not a port"),
        ({"containers": {"c": {"listen": {"80": "ftp"}}}}, "must be one of http, echo"),
        ({"containers": {"c": 5}}, "must be an object"),
        ({"container": {}}, "unknown key 'container'; known are containers, sandbox"),
        ({"sandbox": {"errors": ""}}, "sandbox: unknown key 'errors'"),
        ([], "must be an object"),
    ],
)
def test_mistakes_are_named(value, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve_behaviour("c", pod_annotations=annotate(value))


def test_annotation_must_be_json():
    with pytest.raises(ConfigurationError, match=f"annotation {BEHAVIOUR_ANNOTATION} is not JSON"):
        resolve_behaviour("c", pod_annotations={BEHAVIOUR_ANNOTATION: "{"})
