"""The way to the kubelet: logs, exec, attach, port-forward and the node proxy.

An upgrade (SPDY or WebSocket) is passed on as it is: once the kubelet has answered 101, bytes go both ways untouched.
The kubelet's serving certificate is not verified, as with an API server that has no
``--kubelet-certificate-authority``; the cluster's client certificate is presented to it.

Source: pkg/registry/core/pod/strategy.go (LogLocation, streamLocation), pkg/kubelet/client/kubelet_client.go,
staging/src/k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp import hdrs, web

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.api import pods as podapi
from vkprovider.api import v1
from vkprovider.localcluster import status
from vkprovider.localcluster.handlers import Call
from vkprovider.localcluster.objects import ObjectService
from vkprovider.localcluster.pki import CertificateFiles
from vkprovider.localcluster.relay import take_over

Object = dict[str, Any]
DIAL_TIMEOUT_S: Final = 30.0
ADDRESS_TYPES: Final = ("InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP")
_HOP_HEADERS: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "host", "authorization", "content-length"}
)  # fmt: skip
_MAX_HEAD_BYTES: Final = 64 * 1024
_LOG_PARAMETERS: Final = {
    "follow": "follow",
    "previous": "previous",
    "timestamps": "timestamps",
    "sinceSeconds": "sinceSeconds",
    "sinceTime": "sinceTime",
    "tailLines": "tailLines",
    "limitBytes": "limitBytes",
    "stream": "stream",
}


class KubeletProxy:
    """Passes requests on to kubelets.

    Args:
        objects: Where pods and nodes are.
        client: The cluster's client certificate for kubelets.
    """

    def __init__(self, objects: ObjectService, client: CertificateFiles) -> None:
        self._objects = objects
        self._client = client
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None
        self._relays: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Load the certificate and open the client session."""
        self._context = await asyncio.to_thread(self._make_context)
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=DIAL_TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)

    async def close(self) -> None:
        """End all relays and close the session."""
        await cancel_and_wait(tuple(self._relays))
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self._client.certificate, self._client.key)
        return context

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer ``pods/{log,exec,attach,portforward}`` and ``nodes/proxy``.

        Raises:
            APIStatusError: The pod, container or node is not there, or the kubelet does not answer.
        """
        target = call.target
        if target.resource.plural == "nodes":
            name, _, port = target.name.partition(":")
            host, kubelet_port = self._find_kubelet(name)
            path = f"/{target.rest}" + (f"?{call.http.query_string}" if call.http.query_string else "")
            return await self._forward(call, host, int(port or kubelet_port), path)
        pod = self._objects.get(target.resource, target.namespace, target.name).obj
        path = self._pod_path(pod, call)
        node = pod["spec"].get("nodeName", "")
        if not node:
            if target.subresource == "log":
                # As upstream: a pod that is nowhere has an empty log.
                return web.Response(body=b"", content_type="text/plain")
            raise status.bad_request(f"pod {target.name} does not have a host assigned")
        host, kubelet_port = self._find_kubelet(node)
        return await self._forward(call, host, kubelet_port, path, is_log=target.subresource == "log")

    def _find_kubelet(self, node: str) -> tuple[str, int]:
        found = self._objects.store.collection("nodes").find("", node)
        if found is None:
            raise status.not_found("nodes", "", node)
        state = found.obj.get("status") or {}
        port = ((state.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or 10250
        addresses = state.get("addresses") or ()
        for kind in ADDRESS_TYPES:
            for address in addresses:
                if address.get("type") == kind:
                    return address["address"], port
        raise status.internal_error(f"no preferred addresses found; known addresses: {list(addresses)}")

    def _pod_path(self, pod: Object, call: Call) -> str:
        """Path and query on the kubelet.

        Raises:
            APIStatusError: 400, the container is not given or not there, or a parameter is malformed.
        """
        target = call.target
        where = f"{quote(target.namespace)}/{quote(target.name)}"
        query = call.http.query
        if target.subresource == "portforward":
            ports = [("port", port) for port in query.getall("ports", [])]
            return f"/portForward/{where}" + (f"?{urlencode(ports)}" if ports else "")
        container = choose_container(pod, query.get("container", ""))
        if target.subresource == "log":
            pairs = [(ours, query[theirs]) for theirs, ours in _LOG_PARAMETERS.items() if query.get(theirs)]
            _check_log_parameters(target.name, dict(pairs))
            text = f"?{urlencode(pairs)}" if pairs else ""
            return f"/containerLogs/{where}/{quote(container)}{text}"
        streams = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
        chosen = [(ours, "1") for theirs, ours in streams.items() if query.get(theirs) in ("1", "true")]
        if not chosen or chosen == [("tty", "1")]:
            raise status.bad_request("you must specify at least 1 of stdin, stdout, stderr")
        chosen += [("command", part) for part in query.getall("command", [])]
        return f"/{target.subresource}/{where}/{quote(container)}?{urlencode(chosen)}"

    async def _forward(
        self, call: Call, host: str, port: int, path: str, *, is_log: bool = False
    ) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            self._relays.add(task)
        try:
            if call.http.headers.get(hdrs.UPGRADE):
                return await self._upgrade(call, host, port, path)
            return await self._stream(call, host, port, path, is_log=is_log)
        finally:
            if task is not None:
                self._relays.discard(task)

    async def _stream(self, call: Call, host: str, port: int, path: str, *, is_log: bool) -> web.StreamResponse:
        """Pass a plain request on and stream the answer back as it comes."""
        if self._session is None:
            raise status.internal_error("the proxy is not running")
        netloc = f"[{host}]" if ":" in host else host
        headers = {key: value for key, value in call.http.headers.items() if key.lower() not in _HOP_HEADERS}
        body = await call.http.read() if call.http.can_read_body else None
        try:
            from_kubelet = await self._session.request(
                call.http.method, f"https://{netloc}:{port}{path}", headers=headers, data=body, allow_redirects=False
            )
        except aiohttp.ClientError as error:
            raise _unreachable(host, port, path, error) from error
        async with from_kubelet:
            if is_log and from_kubelet.status >= 400:
                text = (await from_kubelet.text(errors="replace")).strip()
                raise _kubelet_failure(from_kubelet.status, text, call)
            answer = web.StreamResponse(status=from_kubelet.status)
            for key, value in from_kubelet.headers.items():
                if key.lower() not in _HOP_HEADERS:
                    answer.headers.add(key, value)
            if is_log:
                answer.headers[hdrs.CONTENT_TYPE] = "text/plain"
            if from_kubelet.content_length is not None:
                answer.content_length = from_kubelet.content_length
            else:
                answer.enable_chunked_encoding()
            await answer.prepare(call.http)
            try:
                async for chunk in from_kubelet.content.iter_any():
                    await answer.write(chunk)
            except aiohttp.ClientError:
                # The kubelet broke off; the client sees the same, a body without its end.
                if call.http.transport is not None:
                    call.http.transport.abort()
                return answer
            await answer.write_eof()
            return answer

    async def _upgrade(self, call: Call, host: str, port: int, path: str) -> web.StreamResponse:
        """Pass an upgrade on; after the kubelet's 101 both connections become one pipe."""
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port, ssl=self._context, limit=_MAX_HEAD_BYTES)
        except (OSError, TimeoutError) as error:
            raise _unreachable(host, port, path, error) from error
        try:
            writer.write(_request_head(call.http, host, port, path))
            await writer.drain()
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            code = _status_code(head)
            if code != 101:
                return await _refused(reader, head, code)
            return await take_over(call.http, head, reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError) as error:
            raise _unreachable(host, port, path, error) from error
        finally:
            writer.close()


def choose_container(pod: Object, name: str) -> str:
    """The container a request is for.

    Raises:
        APIStatusError: 400, none was given and there are several, or it is not there.
    """
    pod_name = pod["metadata"]["name"]
    names: Sequence[str] = [c["name"] for _, c in podapi.iter_containers(cast(v1.Pod, pod))]
    if name:
        if name not in names:
            raise status.bad_request(f"container {name} is not valid for pod {pod_name}")
        return name
    containers: list[Object] = pod["spec"].get("containers") or []
    if len(containers) == 1:
        return str(containers[0]["name"])
    if not containers:
        raise status.bad_request(f"a container name must be specified for pod {pod_name}")
    raise status.bad_request(
        f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(names)}]"
    )


def _check_log_parameters(pod: str, given: dict[str, str]) -> None:
    errors = []
    for key, least in (("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)):
        if key in given:
            try:
                number = int(given[key])
            except ValueError:
                raise status.bad_request(f'strconv.ParseInt: parsing "{given[key]}": invalid syntax') from None
            if number < least:
                errors.append(
                    status.invalid(key, number, f"must be greater than {'or equal to ' if not least else ''}0")
                )
    if "sinceSeconds" in given and "sinceTime" in given:
        errors.append(status.field_forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
    if errors:
        raise status.invalid_object("PodLogOptions", "", pod, errors)


def _unreachable(host: str, port: int, path: str, error: BaseException) -> status.APIStatusError:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    text = str(error) or type(error).__name__
    return status.internal_error(f'error dialing the kubelet: Get "https://{address}{path}": {text}')


def _kubelet_failure(code: int, text: str, call: Call) -> status.APIStatusError:
    """A kubelet's error as the API server hands it on."""
    if code == 400:
        return status.APIStatusError(400, "BadRequest", text or "the server rejected our request for an unknown reason")
    if code == 404:
        message = f"the server could not find the requested resource ( pods/log {call.target.name})"
        return status.APIStatusError(
            404,
            "NotFound",
            message,
            {
                "name": call.target.name,
                "kind": "pods/log",
                "causes": [{"reason": "UnexpectedServerResponse", "message": text}],
            },
        )
    reason = {401: "Unauthorized", 403: "Forbidden", 503: "ServiceUnavailable"}.get(code, "InternalError")
    return status.APIStatusError(code, reason, text or f"the kubelet answered with the status code {code}")


def _request_head(request: web.BaseRequest, host: str, port: int, path: str) -> bytes:
    """The upgrade request as it goes to the kubelet; credentials of the client stay here."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {address}"]
    skipped = ("host", "authorization", "content-length", "accept-encoding")
    for key, value in request.headers.items():
        if key.lower() in skipped or key.lower().startswith(("impersonate-", "x-remote-")):
            continue
        if key.lower() == "sec-websocket-protocol":
            kept = [part for part in value.split(",") if "base64url.bearer.authorization" not in part]
            value = ",".join(kept)
        lines.append(f"{key}: {value}")
    if request.method == "POST":
        lines.append("Content-Length: 0")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _status_code(head: bytes) -> int:
    try:
        return int(head.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise status.internal_error("the kubelet's answer is not HTTP") from None


async def _refused(reader: asyncio.StreamReader, head: bytes, code: int) -> web.Response:
    """A kubelet's refusal of an upgrade as an answer of our own."""
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, separator, value = line.partition(":")
        if separator:
            headers[key.strip().lower()] = value.strip()
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            if headers.get("content-length", "").isdigit():
                body = await reader.readexactly(min(int(headers["content-length"]), _MAX_HEAD_BYTES))
            elif "chunked" in headers.get("transfer-encoding", ""):
                body = await _read_chunked(reader)
            else:
                body = await reader.read(_MAX_HEAD_BYTES)
    except (TimeoutError, asyncio.IncompleteReadError, ValueError):
        body = b""
    kind = headers.get("content-type", "text/plain").partition(";")[0]
    return web.Response(body=body, status=code, content_type=kind)


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    return b"".join(parts)
