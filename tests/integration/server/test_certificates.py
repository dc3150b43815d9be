"""The serving certificate, given or made, and its renewal while running."""

from __future__ import annotations

import asyncio
import ssl
import stat
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from vkprovider.aio.clock import SystemClock
from vkprovider.errors import ConfigurationError
from vkprovider.server.tls import SelfSignedServingCertificate


async def serving_certificate(node):
    _, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=node.tls)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der)


async def test_self_signed_certificate_names_the_node_and_is_trusted_by_itself(start_server, tmp_path):
    node = await start_server()
    certificate = await serving_certificate(node)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-1"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    directory = tmp_path / "root" / "pki"
    assert stat.S_IMODE((directory / "kubelet.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == ["kubelet.crt", "kubelet.key"]
    verifying = ssl.create_default_context(cafile=str(directory / "kubelet.crt"))
    _, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=verifying)
    writer.close()


async def test_self_signed_certificate_survives_a_restart(start_server):
    first = await serving_certificate(await start_server())
    second = await serving_certificate(await start_server())
    assert first == second


async def test_self_signed_certificate_is_renewed_without_a_restart(start_server, clock):
    node = await start_server({"authorization_mode": "AlwaysAllow"}, clock=clock)
    first = await serving_certificate(node)
    clock.ahead_s = 200 * 86400
    await node.server._tls.refresh()
    assert await serving_certificate(node) == first
    clock.ahead_s = 300 * 86400
    await node.server._tls.refresh()
    renewed = await serving_certificate(node)
    assert renewed.serial_number != first.serial_number
    assert renewed.not_valid_after_utc > first.not_valid_after_utc + timedelta(days=299)


@pytest.mark.parametrize("defect", ["key of another", "not PEM", "other address", "truncated"])
async def test_unfit_stored_certificate_is_replaced(tmp_path, defect):
    def source(ips=("10.0.0.1",), directory="pki"):
        return SelfSignedServingCertificate(tmp_path / directory, node_name="n", ips=ips, clock=SystemClock())

    first = source().load()
    assert source().load() == first
    if defect == "key of another":
        (tmp_path / "pki" / "kubelet.key").write_bytes(source(directory="other").load().key_pem)
    elif defect == "not PEM":
        (tmp_path / "pki" / "kubelet.crt").write_text("hello")
    elif defect == "truncated":
        (tmp_path / "pki" / "kubelet.key").write_bytes(first.key_pem[:40])
    second = source(ips=("10.0.0.1", "fd00::1") if defect == "other address" else ("10.0.0.1",)).load()
    assert second.certificate_pem != first.certificate_pem
    assert source().load() == second


async def test_given_files_are_served_and_reloaded(start_server, authority, tmp_path, caplog):
    def write(name):
        pem = authority.issue(name, usage=ExtendedKeyUsageOID.SERVER_AUTH, dns_names=[name]).read_text()
        key, certificate = pem.split("-----END PRIVATE KEY-----\n")
        (tmp_path / "tls.key").write_text(key + "-----END PRIVATE KEY-----\n")
        (tmp_path / "tls.crt").write_text(certificate)

    write("first")
    node = await start_server(
        {
            "authorization_mode": "AlwaysAllow",
            "tls_cert_file": tmp_path / "tls.crt",
            "tls_private_key_file": tmp_path / "tls.key",
        }
    )
    assert (await serving_certificate(node)).subject.rfc4514_string() == "CN=first"
    first_key = (tmp_path / "tls.key").read_text()
    write("second")
    good_key = (tmp_path / "tls.key").read_text()
    (tmp_path / "tls.key").write_text(first_key)
    await node.server._tls.refresh()
    await node.server._tls.refresh()
    assert (await serving_certificate(node)).subject.rfc4514_string() == "CN=first"
    assert caplog.text.count("was not replaced") == 1
    (tmp_path / "tls.key").write_text(good_key)
    await node.server._tls.refresh()
    assert (await serving_certificate(node)).subject.rfc4514_string() == "CN=second"


async def test_unusable_given_files_are_clear_errors(start_server, tmp_path):
    files = {"tls_cert_file": tmp_path / "tls.crt", "tls_private_key_file": tmp_path / "tls.key"}
    with pytest.raises(ConfigurationError, match="--tls-cert-file"):
        await start_server(files)
    for path in files.values():
        path.write_text("nonsense")
    with pytest.raises(ConfigurationError, match="must be PEM"):
        await start_server(files)
