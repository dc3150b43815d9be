"""The language in which people say how a simulated container behaves.

It is chosen, the later winning field by field, by

1. ``behaviours`` of the provider's configuration, for images that match a pattern;
2. the image, when it is one of ``memory.local/…`` (see ``find_image_behaviour``);
3. the command, if there is one: the program decides when the container ends and with which code (``programs``, ``shell``);
4. the pod's annotation ``memory.vkprovider.io/behaviour``, as JSON::

       {"sandbox": {"error": "…", "start_delay_s": 1},
        "containers": {"app": {"run_s": 3, "exit_code": 1, "ignore_sigterm": true, "log_lines_per_s": 1}}}

   ``"*"`` as a container's name stands for all; the same annotation on the container itself (runtimes called directly) holds the
   inner object alone.

A container about which nobody says anything runs until stopped and then exits with 0, as a well-behaved server does.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Final, get_args, get_type_hints

from vkprovider.errors import ConfigurationError

BEHAVIOUR_ANNOTATION: Final = "memory.vkprovider.io/behaviour"
LOCAL_REGISTRY: Final = "memory.local"
LISTENER_KINDS: Final = ("http", "echo")


@dataclass(frozen=True, slots=True)
class ExecBehaviour:
    """What a command run in the container does: writes, waits and exits.

    Attributes:
        exit_code: Exit code.
        stdout: Text for standard output.
        stderr: Text for standard error.
        delay_s: Seconds it takes.
    """

    exit_code: int = 0
    stdout: str = ""
    stderr: str = ""
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SandboxBehaviour:
    """How a sandbox behaves.

    Attributes:
        error: Creating it fails with this message.
        start_delay_s: Seconds its creation takes.
    """

    error: str = ""
    start_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a container behaves. Where one of the first five fields is given, it stands in place of the command.

    Attributes:
        run_s: Seconds until it exits by itself; None runs until stopped, unless an exit code is given (then 0).
        exit_code: Exit code then.
        exit_codes: Exit code of each attempt in turn, the last for all later ones; wins over ``exit_code``.
        oom_killed: It ends as if out of memory: exit code 137, reason ``OOMKilled``.
        log_lines_per_s: Lines it writes to its log a second.
        log_line: Such a line; ``{n}`` is its number, ``{container}`` the container's name.
        ignore_sigterm: It does not react to the stop signal, so that only the kill at the end of the grace period ends it.
        shutdown_s: Seconds it takes to end after the stop signal.
        sigterm_exit_code: Exit code after the stop signal; by default 0 for servers, 128 + signal for programs.
        create_error: Creating it fails with this message.
        start_error: Starting it fails with this message; it is then exited with code 128, reason ``StartError``.
        start_delay_s: Seconds the start takes.
        termination_message: What it writes to its termination message file when it ends.
        listen: Port to kind of listener (``http`` or ``echo``) for port-forward.
        cpu_cores: Cores it seems to use.
        memory_bytes: Memory it seems to use.
        exec: Command line, or name of a program, to what running it in the container does.
    """

    run_s: float | None = None
    exit_code: int | None = None
    exit_codes: tuple[int, ...] = ()
    oom_killed: bool = False
    log_lines_per_s: float = 0.0
    log_line: str = "{container} line {n}"
    ignore_sigterm: bool = False
    shutdown_s: float = 0.0
    sigterm_exit_code: int | None = None
    create_error: str = ""
    start_error: str = ""
    start_delay_s: float = 0.0
    termination_message: str = ""
    listen: Mapping[int, str] = field(default_factory=dict)
    cpu_cores: float = 0.001
    memory_bytes: int = 4 * 1024 * 1024
    exec: Mapping[str, ExecBehaviour] = field(default_factory=dict)

    @property
    def ends_by_itself(self) -> bool:
        """Whether it ends without being stopped, whatever its command says."""
        return self.run_s is not None or self.exit_code is not None or bool(self.exit_codes) or self.oom_killed

    @property
    def replaces_program(self) -> bool:
        """Whether it says itself how the container runs, so that the command does not count."""
        return self.ends_by_itself or self.log_lines_per_s > 0

    def get_exit_code(self, attempt: int) -> int:
        """Exit code of an attempt (restart count) that ends by itself."""
        if self.oom_killed:
            return 137
        if self.exit_codes:
            return self.exit_codes[min(attempt, len(self.exit_codes) - 1)]
        return self.exit_code or 0


DEFAULT_BEHAVIOUR: Final = Behaviour()
_DEFAULT_SANDBOX: Final = SandboxBehaviour()


def _check_scalar(where: str, kind: Any, value: Any) -> Any:
    """The value as the field's type, or an error that says what it may be."""
    allowed = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in allowed:
        return None
    if bool in allowed and isinstance(value, bool):
        return value
    if str in allowed and isinstance(value, str):
        return value
    if not isinstance(value, bool) and isinstance(value, int | float):
        if float in allowed and value >= 0:
            return float(value)
        if int in allowed and value == int(value) and value >= 0:
            return int(value)
    names = {bool: "true or false", str: "a text", float: "a number of at least 0", int: "a whole number of at least 0"}
    expected = " or ".join(names[item] for item in allowed if item in names)
    raise ConfigurationError(f"{where} must be {expected}, not {value!r}")


def _check_object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} must be an object, not {value!r}")
    return value


def _check_keys(where: str, value: Any, known: Any) -> Mapping[str, Any]:
    checked = _check_object(where, value)
    names = sorted(known)
    for key in checked:
        if key not in names:
            raise ConfigurationError(f"{where}: unknown key {key!r}; known are {', '.join(names)}")
    return checked


def _parse_listen(where: str, value: Any) -> Mapping[int, str]:
    ports: dict[int, str] = {}
    for port, kind in _check_object(where, value).items():
        if not str(port).isdigit() or not 0 < int(port) < 65536:
            raise ConfigurationError(f"{where}: {port!r} is not a port from 1 to 65535")
        if kind not in LISTENER_KINDS:
            raise ConfigurationError(f"{where}: port {port} must be one of {', '.join(LISTENER_KINDS)}, not {kind!r}")
        ports[int(port)] = kind
    return ports


def _parse_fields(where: str, value: Any, kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    result: dict[str, Any] = {}
    for key, item in _check_keys(where, value, [entry.name for entry in fields(kind)]).items():
        path = f"{where}.{key}"
        if key == "listen":
            result[key] = _parse_listen(path, item)
        elif key == "exec":
            result[key] = {
                command: ExecBehaviour(**_parse_fields(f"{path}[{command!r}]", entry, ExecBehaviour))
                for command, entry in _check_object(path, item).items()
            }
        elif key == "exit_codes":
            if not isinstance(item, list | tuple) or not item:
                raise ConfigurationError(f"{path} must be a list of exit codes, not {item!r}")
            result[key] = tuple(_check_scalar(f"{path}[{index}]", int, code) for index, code in enumerate(item))
        else:
            result[key] = _check_scalar(path, hints[key], item)
    return result


def parse_behaviour(value: Any, *, where: str = "behaviour") -> dict[str, Any]:
    """Checked fields of a ``Behaviour``, only those that are given.

    Raises:
        ConfigurationError: A key is unknown or a value wrong; the message says where.
    """
    return _parse_fields(where, value, Behaviour)


@lru_cache(maxsize=1024)
def _parse_annotation(text: str, inner: bool) -> tuple[SandboxBehaviour, dict[str, dict[str, Any]]]:
    where = f"annotation {BEHAVIOUR_ANNOTATION}"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{where} is not JSON: {error}") from error
    if inner:
        return _DEFAULT_SANDBOX, {"*": parse_behaviour(value, where=where)}
    value = _check_keys(where, value, ("sandbox", "containers"))
    sandbox = SandboxBehaviour(**_parse_fields(f"{where}: sandbox", value.get("sandbox", {}), SandboxBehaviour))
    containers = {
        name: parse_behaviour(item, where=f"{where}: containers.{name}")
        for name, item in _check_object(f"{where}: containers", value.get("containers", {})).items()
    }
    return sandbox, containers


def get_sandbox_behaviour(annotations: Mapping[str, str]) -> SandboxBehaviour:
    """What a pod's annotations say of its sandbox.

    Raises:
        ConfigurationError: The annotation is wrong.
    """
    text = annotations.get(BEHAVIOUR_ANNOTATION)
    return _parse_annotation(text, False)[0] if text else _DEFAULT_SANDBOX


def resolve_behaviour(
    container: str,
    *,
    base: Behaviour = DEFAULT_BEHAVIOUR,
    has_command: bool = False,
    pod_annotations: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Behaviour:
    """How a container behaves, all told.

    Args:
        container: Its name in the pod.
        base: What its image says.
        has_command: Whether it has a command, which then counts more than what the image says of its end.
        pod_annotations: Annotations of its pod.
        annotations: Its own annotations.

    Raises:
        ConfigurationError: An annotation is wrong.
    """
    found = base
    if has_command and base.replaces_program:
        found = replace(
            base,
            run_s=None,
            exit_code=None,
            exit_codes=(),
            oom_killed=False,
            log_lines_per_s=DEFAULT_BEHAVIOUR.log_lines_per_s,
        )
    text = (pod_annotations or {}).get(BEHAVIOUR_ANNOTATION)
    if text:
        containers = _parse_annotation(text, False)[1]
        found = replace(found, **{**containers.get("*", {}), **containers.get(container, {})})
    text = (annotations or {}).get(BEHAVIOUR_ANNOTATION)
    if text:
        found = replace(found, **_parse_annotation(text, True)[1]["*"])
    return found


def find_image_behaviour(repository: str, tag: str) -> Behaviour | None:
    """What an image of ``memory.local`` does, or None if there is no such image.

    ===============================  ==================================================================
    ``memory.local/run``             runs until stopped
    ``memory.local/exit:3``          exits at once with this code
    ``memory.local/sleep:5``         exits with 0 after so many seconds
    ``memory.local/crash:5``         exits with 1 after so many seconds
    ``memory.local/oom:5``           is killed for want of memory after so many seconds
    ``memory.local/stubborn``        ignores SIGTERM
    ``memory.local/logger:2``        writes so many lines a second to its log
    ``memory.local/start-error``     cannot be started
    ``memory.local/slow:10``         runs until stopped; pulling it takes so many seconds
    ``memory.local/denied``          cannot be pulled: access denied
    ``memory.local/unreachable``     cannot be pulled: its registry does not answer
    ``memory.local/…``               anything else cannot be pulled: not found
    ===============================  ==================================================================

    Args:
        repository: Path below ``memory.local/``.
        tag: Tag; one that is not a number stands for 0.
    """
    try:
        number = max(0.0, float(tag))
    except ValueError:
        number = 0.0
    match repository:
        case "run" | "slow":
            return DEFAULT_BEHAVIOUR
        case "exit":
            return Behaviour(run_s=0.0, exit_code=int(number))
        case "sleep":
            return Behaviour(run_s=number, exit_code=0)
        case "crash":
            return Behaviour(run_s=number, exit_code=1)
        case "oom":
            return Behaviour(run_s=number, oom_killed=True)
        case "stubborn":
            return Behaviour(ignore_sigterm=True)
        case "logger":
            return Behaviour(log_lines_per_s=number or 1.0)
        case "start-error":
            return Behaviour(start_error='exec: "start-error": executable file not found in $PATH')
    return None
