from __future__ import annotations

from pathlib import Path

import pytest

from vkprovider.configuration import (
    parse_label,
    parse_listen_address,
    parse_taint,
    read_kubelet_configuration,
)
from vkprovider.errors import ConfigurationError
from vkprovider.settings import NodeSettings, Settings

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
SETTINGS = Settings(node=NodeSettings(name="n"))


def write(tmp_path: Path, body: str, head: str = HEAD) -> Path:
    path = tmp_path / "kubelet.yaml"
    path.write_text(head + body)
    return path


def test_fields_that_apply_are_honoured(tmp_path):
    path = write(
        tmp_path,
        """
maxPods: 2000
syncFrequency: 30s
nodeLeaseDurationSeconds: 20
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
serializeImagePulls: false
containerLogMaxSize: 5Mi
crashLoopBackOff: {maxContainerRestartPeriod: 60s}
evictionHard: {memory.available: 1Gi, nodefs.available: 15%}
systemReserved: {cpu: 500m, memory: 1Gi}
kubeAPIQPS: 20
registerWithTaints: [{key: a, value: b, effect: NoSchedule}]
authentication:
  anonymous: {enabled: true}
  webhook: {enabled: false, cacheTTL: 1m30s}
  x509: {clientCAFile: /etc/ca.crt}
authorization:
  mode: AlwaysAllow
  webhook: {cacheAuthorizedTTL: 10s}
""",
    )

    settings = read_kubelet_configuration(path).apply(SETTINGS)

    assert settings.node.max_pods == 2000
    assert settings.node.lease_duration_s == 20
    assert settings.node.taints == ({"key": "a", "value": "b", "effect": "NoSchedule"},)
    assert settings.node.eviction_hard == {"memory.available": "1Gi", "nodefs.available": "15%"}
    assert settings.node.system_reserved == {"cpu": "500m", "memory": "1Gi"}
    assert settings.pods.sync_period_s == 30
    assert settings.pods.cluster_dns == ("10.96.0.10",)
    assert settings.pods.cluster_domain == "cluster.local"
    assert settings.pods.serialize_image_pulls is False
    assert settings.pods.container_log_max_bytes == 5 * 1024 * 1024
    assert settings.pods.max_container_restart_period_s == 60
    assert settings.cluster.qps == 20
    assert settings.server.anonymous is True
    assert settings.server.webhook_authentication is False
    assert settings.server.authentication_cache_ttl_s == 90
    assert settings.server.client_ca_file == Path("/etc/ca.crt")
    assert settings.server.authorization_mode == "AlwaysAllow"
    assert settings.server.authorized_cache_ttl_s == 10
    assert settings.kubelet_configuration["maxPods"] == 2000


def test_fields_without_effect_and_unknown_fields_are_named(tmp_path):
    file = read_kubelet_configuration(write(tmp_path, "hairpinMode: none\ncgroupDriver: systemd\nmaxPodz: 3\n"))

    assert file.ignored == ("cgroupDriver", "hairpinMode")
    assert file.unknown == ("maxPodz",)
    assert file.describe_ignored() == (
        "fields without effect on this node: cgroupDriver, hairpinMode; unknown fields: maxPodz"
    )


def test_a_file_with_only_fields_that_apply_gives_no_warning(tmp_path):
    assert read_kubelet_configuration(write(tmp_path, "maxPods: 5\n")).describe_ignored() == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("maxPods: many", "maxPods: must be a whole number of at least 0, found 'many'"),
        ("maxPods: true", "maxPods: must be a whole number"),
        ("port: 70000", "port: must be a whole number from 0 to 65535"),
        ("syncFrequency: 10", "syncFrequency: must be a duration such as 10s"),
        ("syncFrequency: soon", "'soon' is not a duration"),
        ("clusterDNS: [dns.local]", "clusterDNS: 'dns.local' is not an IP address"),
        ("clusterDNS: 10.0.0.1", "clusterDNS: must be a list of texts"),
        ("evictionHard: {memory.avail: 1Gi}", "unknown eviction signal 'memory.avail'"),
        ("evictionHard: {nodefs.available: 200%}", "must be at least 0% and less than 100%"),
        ("evictionHard: {memory.available: lots}", "lots"),
        ("systemReserved: {disk: 1Gi}", "'disk' cannot be reserved"),
        ("registerWithTaints: [{key: a, effect: Sometimes}]", "needs a key and an effect"),
        ("authorization: {mode: RBAC}", "mode must be Webhook or AlwaysAllow"),
        ("crashLoopBackOff: {maxContainerRestartPeriod: 10m}", "at most 300s"),
        ("serializeImagePulls: 'yes'", "must be true or false"),
    ],
)
def test_a_malformed_value_is_an_error_that_names_file_and_field(tmp_path, body, message):
    path = write(tmp_path, body)
    with pytest.raises(ConfigurationError) as raised:
        read_kubelet_configuration(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("kind: KubeletConfiguration\n", "apiVersion must be 'kubelet.config.k8s.io/v1beta1', found None"),
        ("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: Pod\n", "kind must be 'KubeletConfiguration', found 'Pod'"),
        ("- a\n- b\n", "must hold a mapping"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path, head, message):
    with pytest.raises(ConfigurationError, match="kubelet configuration") as raised:
        read_kubelet_configuration(write(tmp_path, "", head))
    assert message in str(raised.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere.yaml cannot be read: No such file"):
        read_kubelet_configuration(tmp_path / "nowhere.yaml")


def test_default_eviction_thresholds_are_replaced_as_a_whole_unless_merging_is_asked_for(tmp_path):
    body = "evictionHard: {memory.available: 1Gi}\n"
    replaced = read_kubelet_configuration(write(tmp_path, body)).apply(SETTINGS)
    merged = read_kubelet_configuration(write(tmp_path, body + "mergeDefaultEvictionSettings: true\n")).apply(SETTINGS)

    assert replaced.node.eviction_hard == {"memory.available": "1Gi"}
    assert merged.node.eviction_hard["memory.available"] == "1Gi"
    assert merged.node.eviction_hard["nodefs.available"] == "10%"


def test_report_period_follows_an_update_period_that_is_set_alone(tmp_path):
    alone = read_kubelet_configuration(write(tmp_path, "nodeStatusUpdateFrequency: 5s\n")).apply(SETTINGS)
    both = read_kubelet_configuration(
        write(tmp_path, "nodeStatusReportFrequency: 1m\nnodeStatusUpdateFrequency: 5s\n")
    ).apply(SETTINGS)
    assert (alone.node.status_update_period_s, alone.node.status_report_period_s) == (5, 5)
    assert (both.node.status_update_period_s, both.node.status_report_period_s) == (5, 60)


@pytest.mark.parametrize(
    ("text", "taint"),
    [
        ("a=b:NoSchedule", {"key": "a", "value": "b", "effect": "NoSchedule"}),
        ("x.io/y:NoExecute", {"key": "x.io/y", "effect": "NoExecute"}),
    ],
)
def test_taints_are_read_in_kubectl_form(text, taint):
    assert parse_taint(text) == taint


@pytest.mark.parametrize("text", ["a=b", "a:Never", ":NoSchedule", "=v:NoSchedule"])
def test_bad_taints_are_refused(text):
    with pytest.raises(ValueError, match="write key=value:effect"):
        parse_taint(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), (":10250", ("0.0.0.0", 10250)), ("[::]:1", ("::", 1))],
)
def test_listen_addresses_are_read(text, address):
    assert parse_listen_address(text) == address


@pytest.mark.parametrize("text", ["10250", "localhost:1", "1.2.3.4:99999", "1.2.3.4:x"])
def test_bad_listen_addresses_are_refused(text):
    with pytest.raises(ValueError, match="is not an"):
        parse_listen_address(text)


def test_labels_need_a_key():
    assert parse_label("a.io/b=c") == ("a.io/b", "c")
    with pytest.raises(ValueError, match="write key=value"):
        parse_label("=c")
