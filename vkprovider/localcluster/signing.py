"""Certificate signing requests: the three signers of the ``kubernetes.io`` domain that concern nodes and clients.

An approved request is signed at once; nothing approves by itself unless the cluster is told to.

Source: pkg/controller/certificates/signer/signer.go, pkg/apis/certificates/helpers.go.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from vkprovider.localcluster.pki import CertificateAuthority
from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.store import Stored
from vkprovider.localcluster.users import NODE_USER_PREFIX, NODES

Object = dict[str, Any]
CLIENT: Final = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT: Final = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING: Final = "kubernetes.io/kubelet-serving"
MIN_LIFETIME: Final = timedelta(minutes=10)
_USAGES: Final = {
    CLIENT: ({"client auth"}, {"digital signature", "key encipherment"}),
    KUBELET_CLIENT: ({"client auth"}, {"digital signature", "key encipherment"}),
    KUBELET_SERVING: ({"server auth"}, {"digital signature", "key encipherment"}),
}
Rewrite = Callable[[Resource, Stored, Object], Stored]


class CertificateSigner:
    """Signs approved requests.

    Args:
        authority: The cluster's authority.
        rewrite: Stores a new version of a request.
    """

    def __init__(self, authority: CertificateAuthority, rewrite: Rewrite) -> None:
        self._authority = authority
        self._rewrite = rewrite

    def on_write(self, resource: Resource, stored: Stored, subresource: str) -> Stored:
        """Sign a request that was approved just now; a hook of the strategies."""
        del subresource
        obj = stored.obj
        state = obj.get("status") or {}
        words = {condition.get("type") for condition in state.get("conditions") or ()}
        signer = obj["spec"].get("signerName")
        if signer not in _USAGES or "Approved" not in words or words & {"Denied", "Failed"} or state.get("certificate"):
            return stored
        try:
            certificate = self._sign(obj["spec"], signer)
        except ValueError as error:
            condition = {"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": str(error)}
            changed = {**state, "conditions": [*state.get("conditions", ()), condition]}
        else:
            changed = {**state, "certificate": base64.b64encode(certificate).decode()}
        return self._rewrite(resource, stored, {**obj, "status": changed})

    def _sign(self, spec: Object, signer: str) -> bytes:
        """The certificate in PEM.

        Raises:
            ValueError: The request does not fit the signer's rules.
        """
        request = x509.load_pem_x509_csr(base64.b64decode(spec.get("request", "")))
        if not request.is_signature_valid:
            raise ValueError("the request's signature is not valid")
        required, optional = _USAGES[signer]
        usages = set(spec.get("usages") or ())
        if not required <= usages or not usages <= required | optional:
            raise ValueError(f"usages did not match {sorted(required | optional)}")
        names = _alternative_names(request)
        self._check(request, signer, names, spec)
        lifetime = timedelta(days=365)
        if spec.get("expirationSeconds"):
            lifetime = max(MIN_LIFETIME, min(lifetime, timedelta(seconds=spec["expirationSeconds"])))
        server = signer == KUBELET_SERVING
        return self._authority.sign(
            request.subject, request.public_key(), client=not server, server=server, names=names, valid_for=lifetime
        )

    @staticmethod
    def _check(
        request: x509.CertificateSigningRequest, signer: str, names: list[x509.GeneralName], spec: Object
    ) -> None:
        organizations = [str(a.value) for a in request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
        common = [str(a.value) for a in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if signer == CLIENT:
            if "system:masters" in organizations:
                raise ValueError("requests for system:masters are not signed")
            return
        if organizations != [NODES]:
            raise ValueError(f"subject organization is not {NODES}")
        if len(common) != 1 or not common[0].startswith(NODE_USER_PREFIX):
            raise ValueError(f"subject common name does not begin with {NODE_USER_PREFIX}")
        if signer == KUBELET_CLIENT and names:
            raise ValueError("subject alternative names are not allowed")
        if signer == KUBELET_SERVING:
            if not any(isinstance(name, (x509.DNSName, x509.IPAddress)) for name in names):
                raise ValueError("DNS or IP subjectAltName is required")
            if spec.get("username", "").startswith(NODE_USER_PREFIX) and spec["username"] != common[0]:
                raise ValueError("subject common name does not match the requesting node")


def _alternative_names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        return list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
