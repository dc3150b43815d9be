"""Discovery documents: which groups, versions and resources there are.

Source: staging/src/k8s.io/apiserver/pkg/endpoints/discovery.
"""

from __future__ import annotations

from typing import Any, Final

from vkprovider.localcluster.registry import Registry, Resource

Object = dict[str, Any]
VERSION: Final = "v1.36.3"
_SUBRESOURCE_KINDS: Final = {
    "scale": ("autoscaling", "v1", "Scale"),
    "eviction": ("policy", "v1", "Eviction"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
    "binding": ("", "v1", "Binding"),
    "attach": ("", "v1", "PodAttachOptions"),
    "exec": ("", "v1", "PodExecOptions"),
    "portforward": ("", "v1", "PodPortForwardOptions"),
    "proxy": ("", "v1", "NodeProxyOptions"),
}


def make_version() -> Object:
    """Answer of ``/version``."""
    return {
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": f"{VERSION}+vkprovider-local",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "python",
        "platform": "linux/amd64",
    }


def make_api_versions(address: str) -> Object:
    """Answer of ``/api``."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def make_group(registry: Registry, group: str) -> Object:
    """One APIGroup."""
    versions = dict.fromkeys(r.version for r in registry.resources if r.group == group)
    entries = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": entries, "preferredVersion": entries[0]}


def make_group_list(registry: Registry) -> Object:
    """Answer of ``/apis``."""
    groups = [make_group(registry, group) for group in registry.list_groups()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def make_resource_list(registry: Registry, group: str, version: str) -> Object:
    """Answer of ``/api/v1`` or ``/apis/<group>/<version>``."""
    items: list[Object] = []
    for resource in registry.list_in(group, version):
        item: Object = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            item["shortNames"] = list(resource.short_names)
        if resource.categories:
            item["categories"] = list(resource.categories)
        items.append(item)
        items.extend(_subresource(resource, name, verbs) for name, verbs in resource.subresources)
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": items}


def _subresource(resource: Resource, name: str, verbs: tuple[str, ...]) -> Object:
    item: Object = {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(verbs),
    }
    foreign = _SUBRESOURCE_KINDS.get(name)
    if foreign:
        group, version, kind = foreign
        item["kind"] = kind
        if group != resource.group:
            item["group"], item["version"] = group, version
    return item


def make_aggregated(registry: Registry, *, core: bool) -> Object:
    """Aggregated discovery (``apidiscovery.k8s.io/v2``) of the core group or of all others: one answer for all."""
    groups = [""] if core else registry.list_groups()
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [_aggregated_group(registry, group) for group in groups],
    }


def _aggregated_group(registry: Registry, group: str) -> Object:
    versions = []
    for version in dict.fromkeys(r.version for r in registry.resources if r.group == group):
        resources = [_aggregated_resource(resource) for resource in registry.list_in(group, version)]
        versions.append({"version": version, "resources": resources, "freshness": "Current"})
    metadata: Object = {"name": group} if group else {}
    return {"metadata": metadata, "versions": versions}


def _aggregated_resource(resource: Resource) -> Object:
    item: Object = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        item["shortNames"] = list(resource.short_names)
    if resource.categories:
        item["categories"] = list(resource.categories)
    if resource.subresources:
        item["subresources"] = []
        for name, verbs in resource.subresources:
            group, version, kind = _SUBRESOURCE_KINDS.get(name, (resource.group, resource.version, resource.kind))
            item["subresources"].append(
                {
                    "subresource": name,
                    "responseKind": {"group": group, "version": version, "kind": kind},
                    "verbs": list(verbs),
                }
            )
    return item
