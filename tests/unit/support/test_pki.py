from __future__ import annotations

import socket
import ssl
import threading

import pytest

from support.pki import CertificateAuthority


def test_server_and_client_of_one_authority_trust_each_other(tmp_path):
    authority = CertificateAuthority(tmp_path)
    server = authority.issue("server", "a server", hosts=["127.0.0.1", "localhost"])
    client = CertificateAuthority(tmp_path).issue("client", "alice", organizations=["group-a", "group-b"])
    subject = handshake(tmp_path, server, client, "127.0.0.1")
    assert ("commonName", "alice") in subject
    assert {value for key, value in subject if key == "organizationName"} == {"group-a", "group-b"}


def test_a_server_of_another_name_is_refused(tmp_path):
    authority = CertificateAuthority(tmp_path)
    server = authority.issue("server", "a server", hosts=["127.0.0.1"])
    client = authority.issue("client", "alice")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server, client, "elsewhere.example")


def test_keys_are_for_their_owner_alone(tmp_path):
    authority = CertificateAuthority(tmp_path)
    assert authority.files.key.stat().st_mode & 0o077 == 0
    assert authority.issue("client", "alice").key.stat().st_mode & 0o077 == 0


def handshake(directory, server, client, name):
    """Subject of the client's certificate, as (key, value) pairs, as the server sees it."""
    at_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "ca.crt")
    at_server.verify_mode = ssl.CERT_REQUIRED
    at_server.load_cert_chain(server.certificate, server.key)
    at_client = ssl.create_default_context(cafile=directory / "ca.crt")
    at_client.load_cert_chain(client.certificate, client.key)
    left, right = socket.socketpair()
    seen = []

    def serve():
        try:
            with at_server.wrap_socket(left, server_side=True) as stream:
                seen.append(stream.getpeercert())
                stream.sendall(b"x")
        except (ssl.SSLError, OSError):
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with at_client.wrap_socket(right, server_hostname=name) as stream:
            stream.recv(1)
    finally:
        right.close()
        thread.join()
    return [pair for group in seen[0]["subject"] for pair in group]
