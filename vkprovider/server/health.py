"""Health checks, on the kubelet API and on an endpoint of their own without authentication.

Source: apiserver pkg/server/healthz/healthz.go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from aiohttp import web

from vkprovider.errors import ConfigurationError

logger = logging.getLogger(__name__)

HealthCheck: TypeAlias = Callable[[], Awaitable[None] | None]
"""Returns if all is well, else raises; may be a coroutine function."""

CHECK_TIMEOUT_S = 10.0
_HEADERS = {"X-Content-Type-Options": "nosniff"}


def _ping() -> None:
    """The server answers, so it lives."""


class HealthChecks:
    """Named checks, and their answers over HTTP.

    Args:
        checks: Checks by name, besides ``ping``; by custom ``log`` and ``syncloop``.
    """

    def __init__(self, checks: Mapping[str, HealthCheck] | None = None) -> None:
        self._checks: dict[str, HealthCheck] = {"ping": _ping, **(checks or {})}

    def add_routes(self, router: web.UrlDispatcher, path: str) -> None:
        """Serve all checks under a path, and each alone below it.

        Args:
            router: Of the application.
            path: E.g. ``/healthz``.
        """

        async def handle_all(request: web.Request) -> web.Response:
            return await self.respond(request, path.strip("/"))

        router.add_route("*", path, handle_all)
        router.add_route("*", path + "/{check}", self.handle_one)

    async def respond(self, request: web.Request, name: str) -> web.Response:
        """Answer ``ok``, or which checks fail; ``?verbose`` lists them all, ``?exclude=`` leaves some out.

        Reasons are withheld from the answer and go into the log.
        """
        excluded = set(request.query.getall("exclude", []))
        lines: list[str] = []
        failed: list[str] = []
        for check in self._checks:
            if check in excluded:
                lines.append(f"[+]{check} excluded: ok\n")
                continue
            error = await self._run(check)
            if error is None:
                lines.append(f"[+]{check} ok\n")
            else:
                failed.append(check)
                lines.append(f"[-]{check} failed: reason withheld\n")
                logger.info("Health check failed", extra={"check": check, "error": error})
        if unknown := sorted(excluded - self._checks.keys()):
            quoted = ",".join(f'"{check}"' for check in unknown)
            lines.append(f"warn: some health checks cannot be excluded: no matches for {quoted}\n")
        if failed:
            return web.Response(status=500, text=f"{''.join(lines)}{name} check failed\n", headers=_HEADERS)
        text = f"{''.join(lines)}{name} check passed\n" if "verbose" in request.query else "ok"
        return web.Response(text=text, headers=_HEADERS)

    async def handle_one(self, request: web.Request) -> web.Response:
        """Answer for one check."""
        check = request.match_info["check"]
        if check not in self._checks:
            raise web.HTTPNotFound
        error = await self._run(check)
        if error is not None:
            return web.Response(status=500, text=f"internal server error: {error}\n", headers=_HEADERS)
        return web.Response(text="ok", headers=_HEADERS)

    async def _run(self, name: str) -> str | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                outcome = self._checks[name]()
                if outcome is not None:
                    await outcome
        except TimeoutError:
            return f"no answer within {CHECK_TIMEOUT_S:g} s"
        except Exception as error:
            return str(error) or type(error).__name__
        return None


class HealthzServer:
    """The health endpoint for local supervisors: plain HTTP, no authentication, nothing else on it.

    Args:
        address: Address to listen on.
        port: Port; 0 takes a free one.
        checks: What ``/healthz`` and ``/livez`` ask.
        ready: What ``/readyz`` asks; None for the same.

    Source: kubelet --healthz-bind-address and --healthz-port.
    """

    def __init__(self, address: str, port: int, checks: HealthChecks, *, ready: HealthChecks | None = None) -> None:
        self._address = address
        self._port = port
        app = web.Application()
        checks.add_routes(app.router, "/healthz")
        checks.add_routes(app.router, "/livez")
        (ready or checks).add_routes(app.router, "/readyz")
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=30.0)

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigurationError: The address cannot be had.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._address.strip("[]"), self._port).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"cannot listen on {self._address}:{self._port} for health checks: {error}; "
                "choose another with --healthz-listen"
            ) from error

    async def aclose(self) -> None:
        """Stop. Safe to repeat."""
        await self._runner.cleanup()
