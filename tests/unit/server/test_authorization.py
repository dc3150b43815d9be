"""Which right a request needs; cases from kubelet auth_test.go."""

from __future__ import annotations

import pytest

from vkprovider.server.authentication import Identity
from vkprovider.server.authorization import Attributes, forbidden_text, request_attributes


@pytest.mark.parametrize(
    ("path", "subresources"),
    [
        ("/stats", ("stats",)),
        ("/stats/summary", ("stats",)),
        ("/statsx", ("proxy",)),
        ("/metrics", ("metrics",)),
        ("/metrics/cadvisor", ("metrics",)),
        ("/logs/", ("log",)),
        ("/checkpoint/ns/pod/c", ("checkpoint",)),
        ("/statusz", ("statusz",)),
        ("/flagz", ("configz",)),
        ("/pods", ("pods", "proxy")),
        ("/podsx", ("proxy",)),
        ("/runningpods/", ("pods", "proxy")),
        ("/runningpods", ("pods", "proxy")),
        ("/healthz", ("healthz", "proxy")),
        ("/healthz/ping", ("healthz", "proxy")),
        ("/configz", ("configz", "proxy")),
        ("/containerLogs/ns/pod/c", ("proxy",)),
        ("/exec/ns/pod/c", ("proxy",)),
        ("/attach/ns/pod/c", ("proxy",)),
        ("/run/ns/pod/c", ("proxy",)),
        ("/portForward/ns/pod", ("proxy",)),
        ("/debug/pprof", ("proxy",)),
        ("/", ("proxy",)),
        ("", ("proxy",)),
    ],
)
def test_subresources_by_path(path, subresources):
    assert request_attributes("GET", path, node_name="n") == Attributes("get", "n", subresources)


@pytest.mark.parametrize(
    ("method", "verb"),
    [("GET", "get"), ("POST", "create"), ("PUT", "update"), ("PATCH", "patch"), ("DELETE", "delete"), ("HEAD", "")],
)
def test_verb_by_method(method, verb):
    assert request_attributes(method, "/pods", node_name="n").verb == verb


def test_text_of_a_refusal():
    text = forbidden_text(Identity("eve"), Attributes("create", "n", ("proxy",)))
    assert text == "Forbidden (user=eve, verb=create, resource=nodes, subresource(s)=[proxy])\n"
