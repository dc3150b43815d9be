"""A registry that serves one small image, or fails in a chosen way: enough for the engine to pull from."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import tarfile

from aiohttp import web

from vkprovider.backends.docker import elf

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry:
    """Serves the image ``<address>/<any name>:1``.

    Args:
        architecture: Of the image, as the engine names it.
        credentials: Username and password it asks for; None lets everybody in.
    """

    def __init__(self, architecture: str, credentials: tuple[str, str] | None = None) -> None:
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            program = elf.make_pause_program(architecture)
            entry = tarfile.TarInfo("pause")
            entry.size, entry.mode = len(program), 0o755
            tar.addfile(entry, io.BytesIO(program))
        configuration = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Entrypoint": ["/pause"], "User": "1000:1000"},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer.getvalue())]},
            }
        ).encode()
        packed = gzip.compress(layer.getvalue(), mtime=0)
        self.blobs = {digest(configuration): configuration, digest(packed): packed}
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "size": len(configuration),
                    "digest": digest(configuration),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                        "size": len(packed),
                        "digest": digest(packed),
                    }
                ],
            }
        ).encode()
        self.credentials = credentials
        self.hang = asyncio.Event()
        self.hanging = False
        self.address = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Registry:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/v2/", self._get_root)
        app.router.add_get("/v2/{name:.+}/manifests/{reference}", self._get_manifest)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self._get_blob)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.hang.set()
        assert self._runner is not None
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        headers = {"Docker-Distribution-Api-Version": "registry/2.0"}
        if self.credentials is not None:
            given = request.headers.get("Authorization")
            if given != "Basic " + base64.b64encode(":".join(self.credentials).encode()).decode():
                headers["WWW-Authenticate"] = 'Basic realm="test"'
                body = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
                return web.json_response(body, status=401, headers=headers)
        response = await handler(request)
        response.headers.update(headers)
        return response

    async def _get_root(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _get_manifest(self, request: web.Request) -> web.Response:
        if request.match_info["reference"] not in ("1", digest(self.manifest)):
            body = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(body, status=404)
        return web.Response(
            body=self.manifest, content_type=MANIFEST, headers={"Docker-Content-Digest": digest(self.manifest)}
        )

    async def _get_blob(self, request: web.Request) -> web.Response:
        if self.hanging:
            await self.hang.wait()
        data = self.blobs.get(request.match_info["digest"])
        if data is None:
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN"}]}, status=404)
        return web.Response(body=data, content_type="application/octet-stream")
