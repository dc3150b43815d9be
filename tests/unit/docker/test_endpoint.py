"""Which engine is talked to."""

from __future__ import annotations

import hashlib
import json

import pytest

from vkprovider.backends.docker.endpoint import find_endpoint, parse_host
from vkprovider.errors import ConfigurationError


@pytest.fixture
def docker_home(tmp_path, monkeypatch):
    """A docker configuration directory of the test's own; returns a function that writes a context."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    def write(name, host, *, current=False):
        meta = tmp_path / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
        meta.mkdir(parents=True)
        (meta / "meta.json").write_text(
            json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}})
        )
        if current or not (tmp_path / "config.json").exists():
            (tmp_path / "config.json").write_text(json.dumps({"currentContext": name} if current else {}))

    return write


def test_default_is_the_local_socket(docker_home):
    endpoint = find_endpoint(environment={})
    assert endpoint.socket_path == "/var/run/docker.sock"
    assert endpoint.base_url == "http://docker"


def test_own_setting_wins_over_docker_host():
    endpoint = find_endpoint("unix:///own.sock", environment={"DOCKER_HOST": "tcp://h:1"})
    assert endpoint.socket_path == "/own.sock"


def test_docker_host_wins_over_contexts(docker_home):
    docker_home("there", "tcp://context:2375", current=True)
    endpoint = find_endpoint(environment={"DOCKER_HOST": "tcp://h:1234", "DOCKER_CONTEXT": "there"})
    assert (endpoint.host, endpoint.port, endpoint.base_url) == ("h", 1234, "http://h:1234")
    assert "DOCKER_HOST" in str(endpoint)


def test_context_of_the_environment(docker_home):
    docker_home("there", "tcp://context:2375")
    endpoint = find_endpoint(environment={"DOCKER_CONTEXT": "there"})
    assert endpoint.base_url == "http://context:2375"
    assert "docker context 'there'" in str(endpoint)


def test_current_context_of_the_docker_configuration(docker_home):
    docker_home("there", "unix:///context.sock", current=True)
    assert find_endpoint(environment={}).socket_path == "/context.sock"


def test_unknown_context_is_told(docker_home):
    docker_home("there", "unix:///context.sock")
    with pytest.raises(ConfigurationError, match="docker context 'gone' \\(from DOCKER_CONTEXT\\) does not exist"):
        find_endpoint(environment={"DOCKER_CONTEXT": "gone"})


@pytest.mark.parametrize(
    ("text", "port"), [("tcp://h", 2375), ("tcp://h:99", 99), ("http://[::1]:5", 5), ("tcp://h:2375/", 2375)]
)
def test_tcp_hosts(text, port):
    assert parse_host(text, origin="test", tls=None).port == port


@pytest.mark.parametrize("text", ["h:2375", "ftp://h", "tcp://h/path", "tcp://h:port", "npipe:////./pipe/x", ""])
def test_malformed_hosts_are_refused(text):
    with pytest.raises(ConfigurationError, match="is not an engine's address; expected unix://"):
        parse_host(text, origin="test", tls=None)


def test_ssh_is_refused_with_a_way_out():
    with pytest.raises(ConfigurationError, match="ssh is not supported; forward its socket"):
        find_endpoint(environment={"DOCKER_HOST": "ssh://user@h"})


def test_tls_files_come_from_the_certificate_directory(tmp_path):
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    endpoint = find_endpoint(
        environment={"DOCKER_HOST": "tcp://h", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    )
    assert endpoint.port == 2376
    assert endpoint.base_url == "https://h:2376"
    assert endpoint.tls is not None
    assert endpoint.tls.verify
    assert endpoint.tls.client_key == tmp_path / "key.pem"


def test_missing_authority_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match=r"DOCKER_TLS_VERIFY is set but .*ca.pem does not exist"):
        find_endpoint(
            environment={"DOCKER_HOST": "tcp://h", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
        )


def test_damaged_tls_files_are_a_configuration_error(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    endpoint = find_endpoint(
        environment={"DOCKER_HOST": "tcp://h", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    )
    with pytest.raises(ConfigurationError, match="TLS files for the engine"):
        endpoint.make_ssl_context()
