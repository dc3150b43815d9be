"""Trying out, with a container that is thrown away, what an engine cannot be asked."""

from __future__ import annotations

import logging
import secrets

from vkprovider.backends.docker.client import EngineClient
from vkprovider.errors import NotFoundError, PodSyncError, TransientError

logger = logging.getLogger(__name__)

PROBE_LABEL = "vkprovider.io/probe"
_REASON = "ProbeFailed"


async def probe_negative_oom_score(client: EngineClient, image: str) -> bool:
    """Whether a container with a negative OOM score starts where the same container without one does.

    Args:
        client: Connections to the engine.
        image: Image whose program goes on running, present on the engine.

    Raises:
        TransientError: The engine did not answer.
    """
    if await _starts(client, image, -1):
        return True
    # It may be something else: only a container that starts without the score puts the blame on it.
    return not await _starts(client, image, 0)


async def _starts(client: EngineClient, image: str, oom_score_adj: int) -> bool:
    name = f"vkprovider_probe_{secrets.token_hex(6)}"
    body = {
        "Image": image,
        "Labels": {PROBE_LABEL: "oom-score"},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "NetworkMode": "none",
            "OomScoreAdj": oom_score_adj,
            "LogConfig": {"Type": "none", "Config": {}},
            "ReadonlyRootfs": True,
        },
    }
    try:
        answer = await client.call(
            lambda sdk: sdk.create_container_from_config(body, name),  # type: ignore[no-untyped-call]
            doing="create a trial container",
            reason=_REASON,
        )
        container_id: str = answer["Id"]
        await client.call(lambda sdk: sdk.start(container_id), doing="start a trial container", reason=_REASON)
    except (PodSyncError, NotFoundError) as error:
        logger.debug("A trial container did not start", extra={"oom_score_adj": oom_score_adj, "error": str(error)})
        return False
    finally:
        await _remove(client, name)
    return True


async def _remove(client: EngineClient, name: str) -> None:
    try:
        await client.call(lambda sdk: sdk.remove_container(name, v=True, force=True), doing="remove a trial container")
    except (NotFoundError, TransientError) as error:
        logger.debug("A trial container was not removed", extra={"container": name, "error": str(error)})
