"""The provider's configuration is validated key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from vkprovider.backends.docker import DockerProviderFactory
from vkprovider.backends.docker.config import DeviceRequest, DockerConfig
from vkprovider.errors import ConfigurationError
from vkprovider.provider import ContainerRuntime, ProviderOptions


def test_nothing_given_is_the_default():
    assert DockerConfig.from_mapping({}) == DockerConfig()


def test_everything_given():
    config = DockerConfig.from_mapping(
        {
            "host": "tcp://h:1",
            "network": "pods",
            "logMaxSize": "1Mi",
            "logMaxFiles": 2,
            "maxParallelCalls": 4,
            "maxParallelStarts": 2,
            "devices": {
                "nvidia.com/gpu": {"driver": "nvidia", "capabilities": [["gpu"]], "options": {"k": 1}},
                "a.b/c": {},
            },
        }
    )
    assert config == DockerConfig(
        host="tcp://h:1",
        network="pods",
        log_max_bytes=1 << 20,
        log_max_files=2,
        max_parallel_calls=4,
        max_parallel_starts=2,
        devices={"nvidia.com/gpu": DeviceRequest("nvidia", (("gpu",),), {"k": "1"}), "a.b/c": DeviceRequest()},
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"netwrok": "x"}, "unknown key 'netwrok'; the docker provider knows devices, host, logMaxFiles"),
        ({"network": "host"}, "'host' is not a network that pods can join"),
        ({"network": 5}, "network: expected text, got 5"),
        ({"logMaxSize": "10m"}, "at least 64Ki is needed"),
        ({"logMaxSize": "ten"}, "logMaxSize: 'ten' is not a quantity"),
        ({"logMaxFiles": 0}, "logMaxFiles: expected a whole number from 1"),
        ({"maxParallelCalls": True}, "maxParallelCalls: expected a whole number"),
        ({"devices": []}, "devices: expected a mapping"),
        ({"devices": {"gpu": {}}}, "devices: gpu: not the name of an extended resource"),
        ({"devices": {"a/b": {"count": 1}}}, "devices: a/b: unknown key 'count'; known are capabilities"),
        ({"devices": {"a/b": {"capabilities": ["gpu"]}}}, "capabilities: expected a list of lists"),
    ],
)
def test_wrong_configuration_says_which_key_and_what_it_may_be(config, words):
    with pytest.raises(ConfigurationError, match=words.replace("(", "\\(")):
        DockerConfig.from_mapping(config)


def test_factory_builds_a_runtime_without_an_engine():
    options = ProviderOptions("node", Path("/nowhere"), {"host": "unix:///nowhere/docker.sock"})
    runtime = DockerProviderFactory().create(options)
    assert isinstance(runtime, ContainerRuntime)
    assert runtime.name == "docker"


def test_factory_refuses_a_wrong_configuration():
    with pytest.raises(ConfigurationError, match="unknown key"):
        DockerProviderFactory().create(ProviderOptions("node", Path("/nowhere"), {"x": 1}))
