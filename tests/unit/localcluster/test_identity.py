"""Certificates, tokens, signing requests and access reviews."""

from __future__ import annotations

import base64
import stat
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vkprovider.errors import ConfigurationError
from vkprovider.localcluster.authentication import user_from_certificate
from vkprovider.localcluster.deletion import DeleteOptions
from vkprovider.localcluster.pki import CertificateAuthority, load_or_make_key
from vkprovider.localcluster.reviews import Authorizer
from vkprovider.localcluster.signing import CertificateSigner
from vkprovider.localcluster.tokens import TokenIssuer
from vkprovider.localcluster.users import User

CSR = "certificatesigningrequests"
CERTIFICATES = "certificates.k8s.io"


@pytest.fixture
def authority(tmp_path):
    return CertificateAuthority(tmp_path / "pki")


@pytest.fixture
def issuer(world):
    return TokenIssuer(ec.generate_private_key(ec.SECP256R1()), world.store)


def test_keys_are_private_and_kept(tmp_path):
    first = CertificateAuthority(tmp_path)
    files = first.ensure_client("admin", "kubernetes-admin", ("system:masters",))
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    before = files.certificate.read_bytes()
    again = CertificateAuthority(tmp_path)
    assert again.pem == first.pem
    again.ensure_client("admin", "kubernetes-admin", ("system:masters",))
    assert files.certificate.read_bytes() == before
    again.ensure_client("admin", "somebody-else")
    assert files.certificate.read_bytes() != before


def test_serving_certificate_is_made_anew_for_more_names(authority):
    files = authority.ensure_server("apiserver", ["localhost", "127.0.0.1"])
    before = files.certificate.read_bytes()
    authority.ensure_server("apiserver", ["localhost"])
    assert files.certificate.read_bytes() == before
    authority.ensure_server("apiserver", ["localhost", "10.1.2.3"])
    names = x509.load_pem_x509_certificate(files.certificate.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "10.1.2.3" in [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)]


def test_a_key_of_another_kind_is_refused(tmp_path):
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "k").write_bytes(pem)
    with pytest.raises(ConfigurationError, match="holds no ECDSA key"):
        load_or_make_key(tmp_path / "k")


def test_user_of_a_certificate():
    subject = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "me"),))
    user = user_from_certificate({"subject": subject})
    assert user == User("me", ("a", "b", "system:authenticated"))
    assert user_from_certificate({"subject": ()}) is None


def test_token_names_account_and_pod(world, make_pod, issuer):
    pod = world.create("pods", make_pod()).obj
    account = world.find("serviceaccounts", "default")
    token, expires_at = issuer.issue(account, audiences=[], lifetime_s=600, bound=pod)
    assert 590 < expires_at - time.time() <= 600
    user, audiences = issuer.authenticate(token)
    assert user.name == "system:serviceaccount:default:default"
    assert user.uid == account["metadata"]["uid"]
    assert "system:serviceaccounts:default" in user.groups
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("p",)
    assert audiences == [issuer.issuer]


def test_token_is_good_for_its_audience_only(world, issuer):
    account = world.find("serviceaccounts", "default")
    token, _ = issuer.issue(account, audiences=["vault"], lifetime_s=600)
    assert issuer.authenticate(token) is None
    assert issuer.authenticate(token, ["vault", "other"])[1] == ["vault"]


def test_token_ends_with_its_pod(world, make_pod, issuer):
    stored = world.create("pods", make_pod())
    token, _ = issuer.issue(world.find("serviceaccounts", "default"), audiences=[], lifetime_s=600, bound=stored.obj)
    assert issuer.authenticate(token)
    world.objects.deletion.delete(world.registry.get("pods"), stored, DeleteOptions())
    assert issuer.authenticate(token) is None


def test_expired_and_forged_tokens_are_refused(world, issuer, monkeypatch):
    account = world.find("serviceaccounts", "default")
    token, _ = issuer.issue(account, audiences=[], lifetime_s=600)
    head, body, signature = token.split(".")
    assert issuer.authenticate(f"{head}.{body}.{'A' * len(signature)}") is None
    assert issuer.authenticate(f"{head}.{body[:-4]}AAAA.{signature}") is None
    for bad in ("", "x", "a.b.c", "..", "é.é.é"):
        assert issuer.authenticate(bad) is None
    other = TokenIssuer(ec.generate_private_key(ec.SECP256R1()), world.store)
    assert other.authenticate(token) is None
    later = time.time() + 700
    monkeypatch.setattr(time, "time", lambda: later)
    assert issuer.authenticate(token) is None


def make_request(common_name, organizations=(), dns=()):
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    subject = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if dns:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(d) for d in dns]), False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return base64.b64encode(pem).decode()


@pytest.fixture
def sign(world, authority):
    signer = CertificateSigner(authority, world.objects.rewrite)
    world.strategies.on_write(f"{CSR}.{CERTIFICATES}", signer.on_write)

    def run(signer_name, request, usages, approve=True, **spec):
        body = {
            "metadata": {"name": "r"},
            "spec": {"request": request, "signerName": signer_name, "usages": usages, **spec},
        }
        world.create(CSR, body, CERTIFICATES)
        condition = {"type": "Approved" if approve else "Denied", "status": "True", "reason": "x"}
        world.update(
            CSR,
            "r",
            lambda old: {**old, "status": {**old["status"], "conditions": [condition]}},
            group=CERTIFICATES,
            subresource="approval",
        )
        return world.find(CSR, "r", CERTIFICATES)["status"]

    return run


def test_approved_kubelet_client_request_is_signed(sign, authority):
    request = make_request("system:node:n", ["system:nodes"])
    status = sign("kubernetes.io/kube-apiserver-client-kubelet", request, ["client auth"], expirationSeconds=3600)
    certificate = x509.load_pem_x509_certificate(base64.b64decode(status["certificate"]))
    certificate.verify_directly_issued_by(authority.certificate)
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert 3500 < lifetime.total_seconds() < 4000


def test_serving_request_needs_a_name(sign):
    request = make_request("system:node:n", ["system:nodes"], ["n.example"])
    assert "certificate" in sign("kubernetes.io/kubelet-serving", request, ["server auth"])


@pytest.mark.parametrize(
    ("signer", "request_pem", "usages"),
    [
        ("kubernetes.io/kubelet-serving", make_request("system:node:n", ["system:nodes"]), ["server auth"]),
        ("kubernetes.io/kube-apiserver-client-kubelet", make_request("n", ["system:nodes"]), ["client auth"]),
        (
            "kubernetes.io/kube-apiserver-client-kubelet",
            make_request("system:node:n", ["system:nodes"]),
            ["server auth"],
        ),
        ("kubernetes.io/kube-apiserver-client", make_request("root", ["system:masters"]), ["client auth"]),
    ],
)
def test_requests_against_the_rules_fail(sign, signer, request_pem, usages):
    status = sign(signer, request_pem, usages)
    assert "certificate" not in status
    assert [c["type"] for c in status["conditions"]] == ["Approved", "Failed"]


def test_denied_and_foreign_requests_are_not_signed(sign):
    request = make_request("u")
    assert "certificate" not in sign("kubernetes.io/kube-apiserver-client", request, ["client auth"], approve=False)


def test_foreign_signers_are_left_alone(sign):
    status = sign("example.com/mine", make_request("u"), ["client auth"])
    assert [c["type"] for c in status["conditions"]] == ["Approved"]


def test_access_reviews_follow_roles(world):
    rbac = "rbac.authorization.k8s.io"
    rules = [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"]}]
    world.create("roles", {"metadata": {"name": "r"}, "rules": rules}, rbac)
    binding = {
        "metadata": {"name": "b"},
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "sa", "namespace": "default"}],
    }
    world.create("rolebindings", binding, rbac)
    authorizer = Authorizer(world.store)

    def may(user, verb="get", resource="pods", namespace="default", **more):
        attributes = {"verb": verb, "resource": resource, "namespace": namespace, **more}
        return authorizer.review(User(user), attributes, resource=True)[0]

    assert may("u")
    assert may("u", subresource="log")
    assert may("system:serviceaccount:default:sa")
    assert not may("u", verb="delete")
    assert not may("u", namespace="kube-system")
    assert not may("u", subresource="exec")
    assert not may("v")
    assert authorizer.review(User("x", ("system:masters",)), {"verb": "*"}, resource=True)[0]
    assert authorizer.review(User("x"), {"verb": "get", "path": "/healthz"}, resource=False)[0]
    assert not authorizer.review(User("x"), {"verb": "get", "path": "/metrics"}, resource=False)[0]


def test_nodes_may_touch_themselves_only(world):
    authorizer = Authorizer(world.store)
    node = User("system:node:a", ("system:nodes",))

    def may(**attributes):
        return authorizer.review(node, attributes, resource=True)[0]

    assert may(verb="patch", resource="nodes", name="a", subresource="status")
    assert not may(verb="patch", resource="nodes", name="b", subresource="status")
    assert not may(verb="delete", resource="nodes", name="a")
    assert may(verb="update", group="coordination.k8s.io", resource="leases", namespace="kube-node-lease", name="a")
    assert may(verb="create", resource="serviceaccounts", subresource="token", namespace="x")
    assert not may(verb="create", resource="deployments", group="apps")
