"""What happens when no engine, the wrong engine, or a failing one answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from vkprovider.backends.docker.config import DockerConfig
from vkprovider.backends.docker.runtime import DockerRuntime
from vkprovider.errors import ConfigurationError, TransientError


@contextlib.asynccontextmanager
async def engine_of(path: str, **routes) -> AsyncIterator[str]:
    """A false engine on a unix socket; routes by path with ``__`` for ``/``."""
    app = web.Application()
    for name, handler in routes.items():
        app.router.add_route("*", "/" + name.replace("__", "/"), handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    try:
        yield f"unix://{path}"
    finally:
        await runner.cleanup()


def answer(document, status=200):
    async def handle(request: web.Request) -> web.Response:
        return web.json_response(document, status=status)

    return handle


VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24", "Arch": "amd64"}


@pytest.fixture
def socket_path(tmp_path):
    return str(tmp_path / "docker.sock")


async def connect(host):
    runtime = DockerRuntime(DockerConfig(host=host))
    try:
        await runtime.connect()
    finally:
        await runtime.aclose()


async def test_no_socket(socket_path):
    with pytest.raises(ConfigurationError, match=r"docker\.sock does not exist; start dockerd, or set DOCKER_HOST"):
        await connect(f"unix://{socket_path}")


async def test_nobody_listens(socket_path):
    async with engine_of(socket_path):
        pass
    if not os.path.exists(socket_path):
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(socket_path)
    with pytest.raises(TransientError, match=r"does not answer: .*onnection refused.*; is dockerd running there"):
        await connect(f"unix://{socket_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use any socket")
async def test_no_permission(socket_path):
    async with engine_of(socket_path, version=answer(VERSION)) as host:
        os.chmod(socket_path, 0)
        with pytest.raises(ConfigurationError, match="no permission to use the Docker Engine"):
            await connect(host)


async def test_too_old(socket_path):
    old = {"ApiVersion": "1.40", "MinAPIVersion": "1.12", "Version": "19.03.15"}
    async with engine_of(socket_path, version=answer(old)) as host:
        with pytest.raises(
            ConfigurationError, match=r"version 19\.03\.15.* is too old: it speaks API 1\.40, at least 1\.41"
        ):
            await connect(host)


async def test_not_an_engine(socket_path):
    async with engine_of(socket_path, version=answer({"hello": "world"})) as host:
        with pytest.raises(ConfigurationError, match="is not a Docker Engine"):
            await connect(host)


async def test_engine_that_never_answers(socket_path, monkeypatch):
    monkeypatch.setattr("vkprovider.backends.docker.client._VERSION_TIMEOUT_S", 0.3)
    never = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        with contextlib.suppress(asyncio.CancelledError):
            await never.wait()
        return web.Response()

    async with engine_of(socket_path, version=hang) as host:
        begun = time.monotonic()
        with pytest.raises(TransientError, match="does not answer in time"):
            await connect(host)
        assert time.monotonic() - begun < 5
        never.set()


async def test_newest_version_that_both_know_is_spoken(socket_path):
    for theirs, spoken in (("1.43", "v1.43"), ("1.99", "v1.47")):
        seen = []

        async def info(request: web.Request, seen=seen) -> web.Response:
            seen.append(request.match_info["api"])
            return web.json_response({})

        async with engine_of(
            socket_path,
            version=answer({"ApiVersion": theirs, "MinAPIVersion": "1.24"}),
            **{"{api}__info": info},
        ) as host:
            await connect(host)
        assert seen == [spoken]


async def test_engine_in_trouble_is_transient(socket_path):
    async with engine_of(
        socket_path,
        version=answer(VERSION),
        **{"v1.41__info": answer({"message": "containerd is down"}, status=500)},
    ) as host:
        with pytest.raises(TransientError, match="Error response from daemon: containerd is down"):
            await connect(host)


async def test_calls_before_connect_and_after_close_are_transient():
    runtime = DockerRuntime(DockerConfig(host="unix:///nowhere"))
    with pytest.raises(TransientError, match="has not been connected to"):
        await runtime.list_pod_sandboxes()
    await runtime.aclose()
    await runtime.aclose()
