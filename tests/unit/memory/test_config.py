"""The memory provider's configuration: what it may hold, and how mistakes are reported."""

import pytest

from vkprovider.backends.memory import Behaviour, MemoryConfig, MemoryProviderFactory, MemoryRuntime
from vkprovider.backends.memory.addresses import AddressPool
from vkprovider.backends.memory.config import PrivateImage
from vkprovider.errors import ConfigurationError, PodSyncError
from vkprovider.provider.registry import ProviderOptions, load_factory


def test_empty_configuration_is_the_default():
    assert MemoryConfig.from_mapping({}) == MemoryConfig()


def test_every_key_is_read():
    config = MemoryConfig.from_mapping(
        {
            "cpu": "4",
            "memory": "8Gi",
            "storage": 1000,
            "podCIDR": ["10.1.0.0/24", "fd00::/64"],
            "images": ["nginx:1.27"],
            "pullUnknown": False,
            "pullDelaySeconds": 1.5,
            "pullErrors": {"*/bad:*": "no such host"},
            "privateImages": [{"image": "reg.example.com/*", "username": "u", "password": "p"}],
            "behaviours": {"*/job:*": {"run_s": 1, "exit_code": 0}},
            "logMaxSize": "64Ki",
        }
    )
    assert config == MemoryConfig(
        cpu_cores=4,
        memory_bytes=8 * 1024**3,
        storage_bytes=1000,
        pod_cidrs=("10.1.0.0/24", "fd00::/64"),
        images=("nginx:1.27",),
        pull_unknown=False,
        pull_delay_s=1.5,
        pull_errors=(("*/bad:*", "no such host"),),
        private_images=(PrivateImage("reg.example.com/*", "u", "p"),),
        behaviours=(("*/job:*", Behaviour(run_s=1.0, exit_code=0)),),
        log_max_bytes=65536,
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cpus": "4"}, "unknown key 'cpus'; the memory provider knows behaviours, cpu, files, images"),
        ({"cpu": "many"}, 'cpu must be a quantity such as "16" or "64Gi", not \'many\''),
        ({"cpu": "500m"}, "cpu must be a whole number of at least 1"),
        ({"memory": True}, "memory must be a quantity"),
        ({"memory": "0"}, "at least 1"),
        ({"podCIDR": "10.0.0.0/40"}, "podCIDR: .* write it like 10.88.0.0/16"),
        ({"podCIDR": "10.0.0.0/30"}, "too few addresses"),
        ({"podCIDR": ["10.1.0.0/24", "10.2.0.0/24"]}, "same family"),
        ({"podCIDR": []}, "must be a range"),
        ({"images": "nginx"}, "images must be a list of texts"),
        ({"pullUnknown": "yes"}, "pullUnknown must be true or false"),
        ({"pullDelaySeconds": -1}, "pullDelaySeconds must be a number of seconds"),
        ({"pullErrors": {"x": ""}}, "'x' must have a message"),
        ({"pullErrors": ["x"]}, "must be an object"),
        ({"privateImages": [{"image": "x"}]}, r"privateImages\[0\] must have exactly the keys"),
        ({"behaviours": {"x": {"run": 1}}}, r"behaviours\['x'\]: unknown key 'run'"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ConfigurationError, match=f"provider configuration: .*{message}|{message}"):
        MemoryConfig.from_mapping(config)


def test_password_is_not_shown():
    assert "secret" not in repr(PrivateImage("x", "u", "secret"))


async def test_entry_point_builds_the_runtime(tmp_path):
    factory = load_factory("memory")
    assert isinstance(factory, MemoryProviderFactory)
    runtime = factory.create(ProviderOptions(node_name="n1", root_dir=tmp_path, config={"cpu": "2", "memory": "4Gi"}))
    assert isinstance(runtime, MemoryRuntime)
    host = await runtime.host_resources()
    assert (host.cpu_cores, host.memory_bytes, host.hostname) == (2, 4 * 1024**3, "n1")


def test_addresses_are_unique_and_come_back_last():
    pool = AddressPool("10.0.0.0/29")
    taken = [pool.take() for _ in range(5)]
    assert taken == [f"10.0.0.{n}" for n in range(2, 7)]
    with pytest.raises(PodSyncError, match=r"no address left in 10\.0\.0\.0/29"):
        pool.take()
    pool.release("10.0.0.5")
    pool.release("10.0.0.3")
    assert [pool.take(), pool.take()] == ["10.0.0.3", "10.0.0.5"]
    pool.release("10.9.9.9")
    assert len(pool) == 5


def test_released_address_is_not_the_next():
    pool = AddressPool("10.0.0.0/24")
    first = pool.take()
    pool.release(first)
    assert pool.take() != first


@pytest.mark.parametrize("cidr", ["10.0.0.0/31", "nonsense"])
def test_pool_needs_a_range(cidr):
    with pytest.raises(ConfigurationError, match="pod_cidr"):
        AddressPool(cidr)
