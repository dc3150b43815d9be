"""The Docker runtime keeps every rule of the contract on a real engine."""

import pytest

from support.images import BUSYBOX_IMAGE
from vkprovider.testing.conformance import RuntimeUnderTest, shell
from vkprovider.testing.pytest_plugin import runtime_conformance

pytestmark = pytest.mark.docker
LISTENER = shell("exec httpd -f -p 8080 -h /var/www")


@runtime_conformance
async def test_docker_runtime(conformance_check, docker_runtime, owner_labels):
    subject = RuntimeUnderTest(
        runtime=docker_runtime, image=BUSYBOX_IMAGE, labels=owner_labels, listener=LISTENER, patience_s=30
    )
    await conformance_check(subject)
