"""References, credentials and pull progress."""

from __future__ import annotations

import base64
import json

import pytest

from vkprovider.backends.docker.images import _PullReport, encode_auth, find_reference, split_reference
from vkprovider.provider import cri


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("busybox", ("busybox", "latest")),
        ("busybox:1.36", ("busybox", "1.36")),
        ("localhost:5000/a/b", ("localhost:5000/a/b", "latest")),
        ("localhost:5000/a/b:2", ("localhost:5000/a/b", "2")),
        ("r/a@sha256:12", ("r/a", "sha256:12")),
        ("r:5000/a:1@sha256:12", ("r:5000/a:1", "sha256:12")),
    ],
)
def test_references_are_split(reference, expected):
    assert split_reference(reference) == expected


def test_pulled_image_is_named_by_its_digest_in_that_repository():
    document = {"Id": "sha256:1", "RepoDigests": ["other/a@sha256:2", "r/a@sha256:3"]}
    assert find_reference("r/a:1", document) == "r/a@sha256:3"
    assert find_reference("local/x:1", document) == "sha256:1"


def decode(auth):
    return json.loads(base64.urlsafe_b64decode(encode_auth(auth)))


def test_credentials_are_passed_as_the_engine_wants_them():
    auth = cri.AuthConfig(username="u", password="p?>", server_address="r:5000")
    assert decode(auth) == {"username": "u", "password": "p?>", "serveraddress": "r:5000"}
    assert decode(cri.AuthConfig(identity_token="t")) == {"identitytoken": "t"}


def test_combined_credentials_are_taken_apart():
    auth = cri.AuthConfig(auth=base64.b64encode(b"u:p:q").decode())
    assert decode(auth) == {"username": "u", "password": "p:q"}


def test_progress_sums_up_all_layers():
    report = _PullReport()
    report.add({"status": "Pulling from r/a", "id": "1"})
    assert report.line() == "Pulling from r/a"
    report.add({"status": "Pulling fs layer", "id": "l1"})
    report.add({"status": "Downloading", "id": "l1", "progressDetail": {"current": 1_000_000, "total": 4_000_000}})
    report.add({"status": "Already exists", "id": "l2"})
    assert report.line() == "1 of 2 layers complete, 1.0 of 4.0 MB downloaded"
    report.add({"status": "Pull complete", "id": "l1"})
    assert report.line() == "2 of 2 layers complete, 4.0 of 4.0 MB downloaded"
