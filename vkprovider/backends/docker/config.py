"""Configuration of the Docker provider: what ``--provider-config`` may hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vkprovider.api.quantity import int_value
from vkprovider.errors import ConfigurationError

_MIN_LOG_BYTES = 64 * 1024
_NETWORK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """How one extended resource is asked of the engine.

    Attributes:
        driver: Device driver of the engine, e.g. ``nvidia``; empty lets the engine choose.
        capabilities: Alternatives (or) of capability sets (and) that the driver must offer.
        options: Options of the driver.

    Source: Engine API, HostConfig.DeviceRequests.
    """

    driver: str = ""
    capabilities: tuple[tuple[str, ...], ...] = (("gpu",),)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """Settings of a ``DockerRuntime``.

    Attributes:
        host: Engine to use, as in ``DOCKER_HOST``; empty follows the environment and the docker contexts.
        network: Network of the engine that pods join.
        log_max_bytes: Size at which a container's log file is rotated.
        log_max_files: Files kept of each log.
        max_parallel_calls: Short calls under way at once, each holding a thread and a connection.
        max_parallel_starts: Container starts under way at once; 0 derives it from the engine's cores.
        devices: Extended resources that the engine hands out, by resource name.
    """

    host: str = ""
    network: str = "bridge"
    log_max_bytes: int = 10 * 1024 * 1024
    log_max_files: int = 5
    max_parallel_calls: int = 16
    max_parallel_starts: int = 0
    devices: Mapping[str, DeviceRequest] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> DockerConfig:
        """Read the provider's configuration file.

        Keys: ``host`` ("unix:///var/run/docker.sock"), ``network`` ("bridge"), ``logMaxSize`` ("10Mi"), ``logMaxFiles``
        (5), ``maxParallelCalls`` (16), ``maxParallelStarts`` (0), ``devices`` (resource name to
        ``{driver, capabilities, options}``).

        Raises:
            ConfigurationError: A key is unknown or its value wrong; the message says which and what it may be.
        """
        values: dict[str, Any] = {}
        for key, value in config.items():
            if key not in _READERS:
                raise ConfigurationError(
                    f"provider configuration: unknown key {key!r}; the docker provider knows {', '.join(sorted(_READERS))}"
                )
            name, reader = _READERS[key]
            values[name] = reader(f"provider configuration: {key}", value)
        return cls(**values)


def _read_text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{where}: expected text, got {value!r}")
    return value


def _read_network(where: str, value: Any) -> str:
    name = _read_text(where, value)
    if name in ("host", "none") or _NETWORK_NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{where}: {name!r} is not a network that pods can join; name a bridge, overlay, macvlan or ipvlan network"
            " of the engine (docker network ls)"
        )
    return name


def _read_log_size(where: str, value: Any) -> int:
    try:
        size_bytes = int_value(str(value))
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    if size_bytes < _MIN_LOG_BYTES:
        raise ConfigurationError(f"{where}: {value!r} is {size_bytes} bytes; at least 64Ki is needed, e.g. 10Mi")
    return size_bytes


def _integer_from(minimum: int, maximum: int) -> Callable[[str, Any], int]:
    def read(where: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise ConfigurationError(f"{where}: expected a whole number from {minimum} to {maximum}, got {value!r}")
        return value

    return read


def _read_devices(where: str, value: Any) -> dict[str, DeviceRequest]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: expected a mapping of resource names to device requests, got {value!r}")
    return {str(name): _read_device(f"{where}: {name}", request) for name, request in value.items()}


def _read_device(where: str, value: Any) -> DeviceRequest:
    if "/" not in where.rpartition(": ")[2]:
        raise ConfigurationError(f"{where}: not the name of an extended resource, such as nvidia.com/gpu")
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: expected a mapping with driver, capabilities and options, got {value!r}")
    unknown = sorted(set(value) - {"driver", "capabilities", "options"})
    if unknown:
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}; known are capabilities, driver, options")
    capabilities = value.get("capabilities", [["gpu"]])
    if not isinstance(capabilities, list) or not all(isinstance(group, list) and group for group in capabilities):
        raise ConfigurationError(f"{where}: capabilities: expected a list of lists of names, e.g. [[gpu]]")
    options = value.get("options", {})
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"{where}: options: expected a mapping of texts, got {options!r}")
    return DeviceRequest(
        driver=_read_text(f"{where}: driver", value.get("driver", "")),
        capabilities=tuple(tuple(str(name) for name in group) for group in capabilities),
        options={str(key): str(text) for key, text in options.items()},
    )


_READERS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "host": ("host", _read_text),
    "network": ("network", _read_network),
    "logMaxSize": ("log_max_bytes", _read_log_size),
    "logMaxFiles": ("log_max_files", _integer_from(1, 1000)),
    "maxParallelCalls": ("max_parallel_calls", _integer_from(2, 512)),
    "maxParallelStarts": ("max_parallel_starts", _integer_from(0, 512)),
    "devices": ("devices", _read_devices),
}
