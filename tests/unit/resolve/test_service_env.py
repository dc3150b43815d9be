from __future__ import annotations

from typing import Any

from vkprovider.resolve.service_env import get_service_environment, make_service_environment


# pkg/kubelet/envvars/envvars_test.go, TestFromServices.
def test_variables_of_a_service_in_both_forms() -> None:
    service: Any = {
        "metadata": {"name": "q-u-u-x"},
        "spec": {
            "clusterIP": "9.8.7.6",
            "ports": [{"port": 8081, "protocol": "TCP", "name": "web-a"}, {"port": 82, "protocol": "UDP"}],
        },
    }
    assert make_service_environment([service]) == {
        "Q_U_U_X_SERVICE_HOST": "9.8.7.6",
        "Q_U_U_X_SERVICE_PORT": "8081",
        "Q_U_U_X_SERVICE_PORT_WEB_A": "8081",
        "Q_U_U_X_PORT": "tcp://9.8.7.6:8081",
        "Q_U_U_X_PORT_8081_TCP": "tcp://9.8.7.6:8081",
        "Q_U_U_X_PORT_8081_TCP_PROTO": "tcp",
        "Q_U_U_X_PORT_8081_TCP_PORT": "8081",
        "Q_U_U_X_PORT_8081_TCP_ADDR": "9.8.7.6",
        "Q_U_U_X_PORT_82_UDP": "udp://9.8.7.6:82",
        "Q_U_U_X_PORT_82_UDP_PROTO": "udp",
        "Q_U_U_X_PORT_82_UDP_PORT": "82",
        "Q_U_U_X_PORT_82_UDP_ADDR": "9.8.7.6",
    }


def test_ipv6_address_stands_in_brackets_in_urls_only() -> None:
    service: Any = {"metadata": {"name": "s"}, "spec": {"clusterIP": "2001:DB8::", "ports": [{"port": 80}]}}
    environment = make_service_environment([service])
    assert environment["S_PORT"] == "tcp://[2001:DB8::]:80"
    assert environment["S_SERVICE_HOST"] == environment["S_PORT_80_TCP_ADDR"] == "2001:DB8::"


def test_services_without_address_or_port_say_nothing() -> None:
    bare: Any = [
        {"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
        {"metadata": {"name": "external"}, "spec": {"ports": [{"port": 80}]}},
        {"metadata": {"name": "portless"}, "spec": {"clusterIP": "1.2.3.4"}},
    ]
    assert make_service_environment(bare) == {}


async def test_only_the_master_service_without_links(objects: Any) -> None:
    objects.add_service("kubernetes", "10.0.0.1", [{"port": 443}], namespace="default")
    objects.add_service("other", "10.0.0.2", [{"port": 80}], namespace="default")
    objects.add_service("mine", "10.0.0.3", [{"port": 80}])
    without = await get_service_environment(objects, "ns", enable_service_links=False)
    assert {name for name in without if name.endswith("_HOST")} == {"KUBERNETES_SERVICE_HOST"}
    with_links = await get_service_environment(objects, "ns", enable_service_links=True)
    assert {name for name in with_links if name.endswith("_HOST")} == {"KUBERNETES_SERVICE_HOST", "MINE_SERVICE_HOST"}


async def test_own_service_called_kubernetes_overrides_the_masters(objects: Any) -> None:
    objects.add_service("kubernetes", "10.0.0.1", [{"port": 443}], namespace="default")
    objects.add_service("kubernetes", "10.9.9.9", [{"port": 1}])
    linked = await get_service_environment(objects, "ns", enable_service_links=True)
    assert linked["KUBERNETES_SERVICE_HOST"] == "10.9.9.9"
    unlinked = await get_service_environment(objects, "ns", enable_service_links=False)
    assert unlinked["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"
