from __future__ import annotations

from typing import Any

import pytest

from vkprovider.api import v1
from vkprovider.errors import KubeAPIError
from vkprovider.kube.pods import PodClient


class RefusingClient:
    """Answers every request with one error."""

    def __init__(self, error: KubeAPIError) -> None:
        self._error = error

    async def request(self, method: str, path: str, **_: Any) -> dict[str, Any]:
        raise self._error


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (422, 'Pod "p" is invalid: metadata.uid: Invalid value: "a": field is immutable', 409),
        (422, 'Pod "p" is invalid: status.phase: Unsupported value', 422),
        (500, "metadata.uid", 500),
    ],
)
async def test_another_uid_under_the_same_name_is_a_conflict(status, message, expected):
    client = PodClient(RefusingClient(KubeAPIError(message, status=status, kube_reason="Invalid")))  # type: ignore[arg-type]
    with pytest.raises(KubeAPIError) as raised:
        await client.patch_status("ns", "p", v1.PodUID("a"), {})
    assert raised.value.status == expected
    assert raised.value.is_conflict is (expected == 409)
