"""A kit for testing providers and runtimes: builders, fakes, faults and conformance checks.

It needs nothing beyond vkprovider itself; ``vkprovider.testing.pytest_plugin`` adds a little for users of pytest.
"""

from vkprovider.testing.builders import make_container, make_pod
from vkprovider.testing.clock import FakeClock
from vkprovider.testing.contexts import RecordedEvent, Recording, make_node_context, make_pod_context
from vkprovider.testing.faults import FaultPlan, FaultyRuntime
from vkprovider.testing.objects import FakeObjectStore

__all__ = [
    "FakeClock",
    "FakeObjectStore",
    "FaultPlan",
    "FaultyRuntime",
    "RecordedEvent",
    "Recording",
    "make_container",
    "make_node_context",
    "make_pod",
    "make_pod_context",
]
