"""What happens to a new pod between decoding and validation: service account, tolerations, priority, runtime class.

Source: plugin/pkg/admission/serviceaccount, defaulttolerationseconds, priority; plugin/pkg/admission/runtimeclass.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from vkprovider.api.pods import MIRROR_ANNOTATION
from vkprovider.localcluster import status
from vkprovider.localcluster.podspec import iter_spec_containers
from vkprovider.localcluster.store import Store

Object = dict[str, Any]
NAME_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
TOKEN_MOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
TOKEN_EXPIRATION_S: Final = 3607
DEFAULT_TOLERATION_S: Final = 300


def random_suffix(length: int = 5) -> str:
    """Letters as ``generateName`` appends them."""
    return "".join(secrets.choice(NAME_ALPHABET) for _ in range(length))


def admit_pod(pod: Object, store: Store) -> None:
    """Complete a new pod in place.

    Raises:
        APIStatusError: 403, the pod names a service account, priority class or runtime class that does not exist.
    """
    spec = pod["spec"]
    if MIRROR_ANNOTATION not in (pod["metadata"].get("annotations") or {}):
        _service_account(pod, spec, store)
    add_default_tolerations(spec)
    _priority(pod, spec, store)
    _runtime_class(pod, spec, store)


def _service_account(pod: Object, spec: Object, store: Store) -> None:
    namespace = pod["metadata"]["namespace"]
    name = spec.setdefault("serviceAccountName", "default")
    spec["serviceAccount"] = name
    found = store.collection("serviceaccounts").find(namespace, name)
    if found is None:
        raise status.forbidden(
            "pods",
            "",
            pod["metadata"]["name"],
            f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found',
        )
    account = found.obj
    if "imagePullSecrets" not in spec and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [dict(reference) for reference in account["imagePullSecrets"]]
    automount = spec.get("automountServiceAccountToken")
    if automount is None:
        automount = account.get("automountServiceAccountToken", True)
    if automount:
        _mount_token(spec)


def _mount_token(spec: Object) -> None:
    """Mount the projected token into each container that has nothing at its place."""
    lacking = [
        container
        for field, _, container in iter_spec_containers(spec)
        if field != "ephemeralContainers"
        and all(mount.get("mountPath") != TOKEN_MOUNT for mount in container.get("volumeMounts") or ())
    ]
    if not lacking:
        return
    name = f"kube-api-access-{random_suffix()}"
    for container in lacking:
        container.setdefault("volumeMounts", []).append({"name": name, "readOnly": True, "mountPath": TOKEN_MOUNT})
    spec.setdefault("volumes", []).append(
        {
            "name": name,
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"expirationSeconds": TOKEN_EXPIRATION_S, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {
                        "downwardAPI": {
                            "items": [
                                {
                                    "path": "namespace",
                                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                                }
                            ]
                        }
                    },
                ],
                "defaultMode": 0o644,
            },
        }
    )


def add_default_tolerations(spec: Object) -> None:
    """Let the pod stay for five minutes on a node that is not ready or not reached, unless it says otherwise."""
    tolerations = spec.get("tolerations") or []
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(
            item.get("key", "") in (key, "") and item.get("effect", "") in ("NoExecute", "") for item in tolerations
        ):
            addition = {
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": DEFAULT_TOLERATION_S,
            }
            tolerations = [*tolerations, addition]
    spec["tolerations"] = tolerations


def _priority(pod: Object, spec: Object, store: Store) -> None:
    classes = store.collection("priorityclasses.scheduling.k8s.io")
    name = spec.get("priorityClassName")
    chosen: Object | None = None
    if name:
        found = classes.find("", name)
        if found is None:
            raise status.forbidden("pods", "", pod["metadata"]["name"], f"no PriorityClass with name {name} was found")
        chosen = found.obj
    else:
        candidates = [item.obj for item in classes.iterate() if item.obj.get("globalDefault")]
        if candidates:
            chosen = min(candidates, key=lambda item: int(item.get("value", 0)))
            spec["priorityClassName"] = chosen["metadata"]["name"]
    spec["priority"] = chosen.get("value", 0) if chosen else 0
    spec.setdefault("preemptionPolicy", (chosen or {}).get("preemptionPolicy", "PreemptLowerPriority"))


def _runtime_class(pod: Object, spec: Object, store: Store) -> None:
    name = spec.get("runtimeClassName")
    if not name:
        return
    found = store.collection("runtimeclasses.node.k8s.io").find("", name)
    if found is None:
        raise status.forbidden("pods", "", pod["metadata"]["name"], f'pod rejected: RuntimeClass "{name}" not found')
    overhead = (found.obj.get("overhead") or {}).get("podFixed")
    if overhead:
        spec["overhead"] = dict(overhead)
    scheduling = found.obj.get("scheduling") or {}
    if scheduling.get("nodeSelector"):
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **scheduling["nodeSelector"]}
    if scheduling.get("tolerations"):
        spec["tolerations"] = [*spec["tolerations"], *(dict(item) for item in scheduling["tolerations"])]
