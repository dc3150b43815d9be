"""Reading how to reach a cluster: every kind of kubeconfig, and what is said about a wrong one."""

from __future__ import annotations

import asyncio
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from support.pki import CertificateAuthority
from vkprovider.errors import ConfigurationError
from vkprovider.kube import credentials as module
from vkprovider.kube.credentials import load_credentials


def write(path, *, cluster=None, user=None, **more):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [
            {"name": "main", "context": {"cluster": "c", "user": "u"}},
            {"name": "second", "context": {"cluster": "c2", "user": "u"}},
        ],
        **more,
    }
    path.write_text(yaml.safe_dump(config))
    return path


async def test_token_and_server(tmp_path):
    found = await load_credentials(write(tmp_path / "k", user={"token": "abc"}))
    assert found.server == "http://127.0.0.1:1"
    assert await found.get_authorization() == "Bearer abc"
    assert found.ssl_context is None


async def test_password(tmp_path):
    found = await load_credentials(write(tmp_path / "k", user={"username": "u", "password": "p"}))
    assert await found.get_authorization() == "Basic dTpw"


async def test_chosen_context(tmp_path):
    clusters = [
        {"name": "c", "cluster": {"server": "http://one"}},
        {"name": "c2", "cluster": {"server": "http://two/"}},
    ]
    path = write(tmp_path / "k", clusters=clusters)
    assert (await load_credentials(path)).server == "http://one"
    assert (await load_credentials(path, "second")).server == "http://two"


async def test_proxy_of_the_kubeconfig_and_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://env:1")
    monkeypatch.setenv("no_proxy", "exempt")
    path = write(tmp_path / "k", cluster={"proxy-url": "http://file:2"})
    assert (await load_credentials(path)).proxy == "http://file:2"
    assert (await load_credentials(write(tmp_path / "k", cluster={"server": "http://x"}))).proxy == "http://env:1"
    assert (await load_credentials(write(tmp_path / "k", cluster={"server": "http://exempt"}))).proxy is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"current-context": "none"}, "none"),
        ({"contexts": []}, "main"),
        ({"clusters": []}, "c"),
        ({"contexts": [{"name": "main", "context": {"user": "u"}}]}, "cluster"),
        ({"clusters": [{"name": "c", "cluster": {}}]}, "no server URL"),
    ],
)
async def test_wrong_kubeconfig_names_file_and_fault(tmp_path, change, words):
    path = write(tmp_path / "k", **change)
    with pytest.raises(ConfigurationError, match=words) as caught:
        await load_credentials(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "just text"])
async def test_file_that_is_no_kubeconfig(tmp_path, text):
    path = tmp_path / "k"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=str(path)):
        await load_credentials(path)


async def test_missing_file(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist or cannot be read"):
        await load_credentials(tmp_path / "none")


async def test_no_kubeconfig_outside_a_pod(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigurationError, match="--kubeconfig"):
        await load_credentials(None)
    with pytest.raises(ConfigurationError, match="--kubeconfig"):
        await load_credentials(None, "context")


async def test_unusable_certificates_are_named(tmp_path):
    (tmp_path / "bad.crt").write_text("no certificate")
    path = write(tmp_path / "k", cluster={"server": "https://x", "certificate-authority": str(tmp_path / "bad.crt")})
    with pytest.raises(ConfigurationError, match=r"bad\.crt.*PEM"):
        await load_credentials(path)


async def test_insecure_and_server_name(tmp_path):
    path = write(
        tmp_path / "k", cluster={"server": "https://x", "insecure-skip-tls-verify": True, "tls-server-name": "y"}
    )
    found = await load_credentials(path)
    assert found.ssl_context.verify_mode == ssl.CERT_NONE
    assert found.ssl_context.tls_server_name == "y"


@pytest.mark.looptime
async def test_token_file_is_read_again_each_minute(tmp_path):
    token = tmp_path / "token"
    token.write_text("one\n")
    found = await load_credentials(write(tmp_path / "k", user={"tokenFile": str(token)}))
    assert await found.get_authorization() == "Bearer one"
    token.write_text("two\n")
    await asyncio.sleep(30)
    assert await found.get_authorization() == "Bearer one"
    await asyncio.sleep(31)
    assert await found.get_authorization() == "Bearer two"


async def test_refusal_reads_everything_anew_and_says_whether_that_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MIN_RELOAD_INTERVAL_S", 0.0)
    path = write(tmp_path / "k", user={"token": "one"})
    found = await load_credentials(path)
    assert not await found.invalidate()
    write(path, user={"token": "two"})
    assert await found.invalidate()
    assert await found.get_authorization() == "Bearer two"
    path.unlink()
    assert not await found.invalidate()
    assert await found.get_authorization() == "Bearer two"


PLUGIN = """
import datetime, json, pathlib
count = pathlib.Path({count!r})
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds={lifetime})
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
    "status": {{"token": f"t{{number}}", "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}}}}))
"""


def plugin(tmp_path, text):
    script = tmp_path / "plugin.py"
    script.write_text(text)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": [str(script)]}}
    return write(tmp_path / "k", user=user)


async def test_plugin_is_run_again_only_when_its_token_runs_out(tmp_path, monkeypatch):
    path = plugin(tmp_path, PLUGIN.format(count=str(tmp_path / "count"), lifetime=3600))
    found = await load_credentials(path)
    assert await found.get_authorization() == "Bearer t1"
    found._fresh_until = 0.0  # a minute later
    assert await found.get_authorization() == "Bearer t1"

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(seconds=3590)

    monkeypatch.setattr(module, "datetime", Later)
    found._fresh_until = 0.0
    assert await found.get_authorization() == "Bearer t2"


async def test_failing_plugin_says_why(tmp_path, caplog):
    with pytest.raises(ConfigurationError, match=r"plug-in .* failed: .*no login"):
        await load_credentials(plugin(tmp_path, "import sys; sys.exit('no login')"))


async def test_renewed_client_certificate_is_loaded_into_the_same_context(tmp_path):
    authority = CertificateAuthority(tmp_path / "pki")
    pair = authority.issue("client", "one")
    ca, certificate, key = authority.files.certificate, pair.certificate, pair.key
    user = {"client-certificate": str(certificate), "client-key": str(key)}
    path = write(tmp_path / "k", cluster={"server": "https://x", "certificate-authority": str(ca)}, user=user)
    found = await load_credentials(path)
    context = found.ssl_context
    authority.issue("client", "two")
    assert await found.invalidate()
    assert found.ssl_context is context
    assert not await found.invalidate()


def test_service_account_directory_is_the_usual_one():
    assert Path("/var/run/secrets/kubernetes.io/serviceaccount") == module._SERVICE_ACCOUNT
