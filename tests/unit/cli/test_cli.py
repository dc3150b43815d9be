from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from vkprovider import __version__
from vkprovider.cli import build_settings, cli, default_root_dir
from vkprovider.errors import ConfigurationError

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env={"KUBECONFIG": ""})


def test_help_of_every_command_names_its_options():
    assert "quickstart" in call("--help").output
    text = call("run", "--help").output
    for option in ("--kubeconfig", "--node-name", "--provider", "--config", "--listen", "--register-with-taints"):
        assert option in text
    assert "--once" in call("quickstart", "--help").output


def test_version_tells_ours_and_the_kubelet_that_is_reproduced():
    assert call("version").output == f"vkprovider {__version__} (kubelet v1.36.3)\n"
    assert call("--version").output == f"vkprovider {__version__}\n"


def test_providers_lists_the_built_in_ones():
    lines = call("providers").output.splitlines()
    assert [line.split()[0] for line in lines][:2] == ["docker", "memory"]
    assert not any("unusable" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--node-name", "Not_A_Name"), "is not a node name"),
        (("--node-name", "n", "--listen", "10250"), "is not an address with a port"),
        (("--node-name", "n", "--node-ip", "localhost"), "is not an IP address"),
        (("--node-name", "n", "--register-with-taints", "x"), "is not a taint"),
        (("--node-name", "n", "--node-label", "x"), "is not a label"),
        (("--node-name", "n", "--tls-cert-file", "/nowhere"), "needs both --tls-cert-file and --tls-private-key-file"),
        (("--node-name", "n", "--client-ca-file", "/nowhere/ca"), "file /nowhere/ca does not exist"),
        (("--node-name", "n", "--config", "/nowhere/c"), "kubelet configuration /nowhere/c cannot be read"),
        (("--node-name", "n", "--provider", "memory", "--docker-network", "x"), "goes with --provider docker only"),
        (("--node-name", "n", "--provider", "absent"), "no provider named 'absent' is installed"),
        (("--node-name", "n", "--kubeconfig", "/nowhere/k", "--provider", "memory"), "/nowhere/k"),
    ],
)
def test_a_bad_argument_ends_with_code_two_before_anything_starts(tmp_path, arguments, message):
    result = call("run", "--root-dir", str(tmp_path / "root"), *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    config = tmp_path / "kubelet.yaml"
    config.write_text(HEAD + "port: 11000\nmaxPods: 7\nregisterWithTaints: [{key: a, effect: NoSchedule}]\n")

    from_file = build_settings({"node_name": "n", "config": config})
    from_flags = build_settings(
        {
            "node_name": "n",
            "config": config,
            "listen": ("1.2.3.4", 12000),
            "taints": ({"key": "b", "effect": "NoExecute"},),
        }
    )

    assert (from_file.server.address, from_file.server.port, from_file.node.max_pods) == ("0.0.0.0", 11000, 7)
    assert from_file.node.taints == ({"key": "a", "effect": "NoSchedule"},)
    assert (from_flags.server.address, from_flags.server.port) == ("1.2.3.4", 12000)
    assert from_flags.node.taints == ({"key": "b", "effect": "NoExecute"},)
    assert from_flags.node.max_pods == 7


def test_settings_without_options_are_those_of_a_kubelet():
    settings = build_settings({"node_name": "n"})
    assert settings.provider == "docker"
    assert settings.node.default_taint
    assert settings.node.lease_duration_s == 40
    assert settings.server.port == 10250
    assert settings.cluster.qps is None
    assert settings.node.fail_cgroup_v1 is False


def test_provider_configuration_must_be_a_mapping(tmp_path):
    path = tmp_path / "provider.yaml"
    path.write_text("- a\n")
    with pytest.raises(ConfigurationError, match="must hold a mapping"):
        build_settings({"node_name": "n", "provider_config": path})


def test_root_directory_is_one_per_node(monkeypatch, tmp_path):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert str(default_root_dir("n1")) == "/var/lib/vkprovider/n1"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_root_dir("n1") == tmp_path / "vkprovider" / "n1"
