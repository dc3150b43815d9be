"""Configuration of the memory provider: what ``--provider-config`` may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from ipaddress import ip_network
from typing import Any

from vkprovider.api.quantity import parse_quantity
from vkprovider.backends.memory.behaviour import Behaviour, parse_behaviour
from vkprovider.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class PrivateImage:
    """Images that only these credentials can pull."""

    pattern: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Settings of a ``MemoryRuntime``.

    Attributes:
        cpu_cores: Cores of the simulated host.
        memory_bytes: Its memory.
        storage_bytes: Its disk.
        pod_cidrs: Ranges of pod addresses, the primary family first.
        images: Images present from the start.
        pull_unknown: Whether any other image can be pulled.
        pull_delay_s: Seconds a pull takes.
        pull_errors: Pattern of image names (``fnmatch``) and message with which pulling one fails.
        private_images: Images that need credentials.
        behaviours: Pattern of image names and how their containers behave; the first that matches counts.
        log_max_bytes: Size of a container's log beyond which its oldest lines are dropped.
        files: Whether containers see real files below the node's root directory: termination messages, ``/etc/hosts``. It costs
            file work for each pod, which runs of thousands of pods do without.
    """

    cpu_cores: int = 16
    memory_bytes: int = 64 * 1024**3
    storage_bytes: int = 200 * 1024**3
    pod_cidrs: tuple[str, ...] = ("10.88.0.0/16",)
    images: tuple[str, ...] = ()
    pull_unknown: bool = True
    pull_delay_s: float = 0.0
    pull_errors: tuple[tuple[str, str], ...] = ()
    private_images: tuple[PrivateImage, ...] = ()
    behaviours: tuple[tuple[str, Behaviour], ...] = ()
    log_max_bytes: int = 1024 * 1024
    files: bool = False

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> MemoryConfig:
        """Read the provider's configuration file.

        Keys: ``cpu`` ("16"), ``memory`` ("64Gi"), ``storage`` ("200Gi"), ``podCIDR`` (a range or a list of two),
        ``images`` (list), ``pullUnknown`` (true), ``pullDelaySeconds`` (0), ``pullErrors`` (pattern to message),
        ``privateImages`` (list of ``{image, username, password}``), ``behaviours`` (pattern to behaviour, see
        ``vkprovider.backends.memory.behaviour``), ``logMaxSize`` ("1Mi"), ``files`` (false).

        Raises:
            ConfigurationError: A key is unknown or its value wrong; the message says which and what it may be.
        """
        unknown = sorted(set(config) - set(_READERS))
        if unknown:
            raise ConfigurationError(
                f"provider configuration: unknown key {unknown[0]!r}; the memory provider knows {', '.join(sorted(_READERS))}"
            )
        values: dict[str, Any] = {}
        for key, value in config.items():
            name, reader = _READERS[key]
            values[name] = reader(f"provider configuration: {key}", value)
        return cls(**values)


def _read_amount(where: str, value: Any) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("not a quantity")
        amount = Fraction(parse_quantity(str(value)).nanos, 10**9)
    except ValueError as error:
        raise ConfigurationError(f'{where} must be a quantity such as "16" or "64Gi", not {value!r}') from error
    if amount < 1 or amount.denominator != 1:
        raise ConfigurationError(f"{where} must be a whole number of at least 1, not {value!r}")
    return int(amount)


def _read_cidrs(where: str, value: Any) -> tuple[str, ...]:
    ranges = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not 1 <= len(ranges) <= 2 or not all(isinstance(item, str) for item in ranges):
        raise ConfigurationError(
            f"{where} must be a range such as 10.88.0.0/16, or a list of one for each family, not {value!r}"
        )
    try:
        networks = [ip_network(item) for item in ranges]
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}; write it like 10.88.0.0/16") from error
    if len({network.version for network in networks}) != len(networks):
        raise ConfigurationError(f"{where}: both ranges are of the same family")
    if any(network.num_addresses < 8 for network in networks):
        raise ConfigurationError(f"{where}: a range holds too few addresses; use a /29 or larger")
    return ranges


def _read_texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise ConfigurationError(f"{where} must be a list of texts, not {value!r}")
    return tuple(value)


def _read_bool(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{where} must be true or false, not {value!r}")
    return value


def _read_seconds(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigurationError(f"{where} must be a number of seconds of at least 0, not {value!r}")
    return float(value)


def _read_mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f"{where} must be an object whose keys are patterns of image names, not {value!r}")
    return value


def _read_pull_errors(where: str, value: Any) -> tuple[tuple[str, str], ...]:
    for pattern, message in _read_mapping(where, value).items():
        if not isinstance(message, str) or not message:
            raise ConfigurationError(f"{where}: {pattern!r} must have a message, not {message!r}")
    return tuple(value.items())


def _read_private_images(where: str, value: Any) -> tuple[PrivateImage, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f"{where} must be a list, not {value!r}")
    images = []
    for index, item in enumerate(value):
        if not isinstance(item, Mapping) or set(item) != {"image", "username", "password"}:
            raise ConfigurationError(f"{where}[{index}] must have exactly the keys image, username and password")
        images.append(PrivateImage(str(item["image"]), str(item["username"]), str(item["password"])))
    return tuple(images)


def _read_behaviours(where: str, value: Any) -> tuple[tuple[str, Behaviour], ...]:
    return tuple(
        (pattern, Behaviour(**parse_behaviour(item, where=f"{where}[{pattern!r}]")))
        for pattern, item in _read_mapping(where, value).items()
    )


_READERS = {
    "cpu": ("cpu_cores", _read_amount),
    "memory": ("memory_bytes", _read_amount),
    "storage": ("storage_bytes", _read_amount),
    "podCIDR": ("pod_cidrs", _read_cidrs),
    "images": ("images", _read_texts),
    "pullUnknown": ("pull_unknown", _read_bool),
    "pullDelaySeconds": ("pull_delay_s", _read_seconds),
    "pullErrors": ("pull_errors", _read_pull_errors),
    "privateImages": ("private_images", _read_private_images),
    "behaviours": ("behaviours", _read_behaviours),
    "logMaxSize": ("log_max_bytes", _read_amount),
    "files": ("files", _read_bool),
}
