"""exec and attach, over SPDY and WebSockets, through real TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc

import aiohttp
import pytest

from vkprovider.errors import NotFoundError, PodSyncError
from vkprovider.provider.streams import TerminalSize

EXEC = "/exec/default/web/app"
ALL = "?command=sh&command=-c&command=true&input=1&output=1&error=1"
V4 = "v4.channel.k8s.io"


async def cat(pod, container, command, streams):
    """Copies its input to its output."""
    while data := await streams.stdin.read():
        await streams.stdout.write(data)
    return 0


def exits(code, out=b"", err=b""):
    async def run(pod, container, command, streams):
        if out:
            await streams.stdout.write(out)
        if err:
            await streams.stderr.write(err)
        return code

    return run


class Endless:
    """A command that runs until it is killed."""

    def __init__(self):
        self.started = asyncio.Event()
        self.killed = asyncio.Event()

    async def __call__(self, pod, container, command, streams):
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.killed.set()
            raise


async def open_streams(client, *names):
    return {name: client.open(streamtype=name) for name in names}


SUCCESS = b'{"status":"Success"}'


def failure(code):
    return {
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


class TestSpdy:
    async def test_output_comes_whole_before_the_status(self, dial, provider):
        seen = []

        async def run(pod, container, command, streams):
            seen.append((pod["metadata"]["name"], container, command, streams.tty))
            await streams.stdout.write(b"out" * 100_000)
            await streams.stderr.write(b"err")
            return 0

        provider.exec = run
        client = await dial(EXEC + ALL, V4)
        assert client.status == 101
        assert client.headers["upgrade"] == "SPDY/3.1"
        assert client.headers["x-stream-protocol-version"] == V4
        streams = await open_streams(client, "error", "stdin", "stdout", "stderr")
        assert await client.read_all(streams["stdout"]) == b"out" * 100_000
        assert await client.read_all(streams["stderr"]) == b"err"
        assert await client.read_all(streams["error"]) == SUCCESS
        await client.connection.ended.wait()
        assert seen == [("web", "app", ["sh", "-c", "true"], False)]

    @pytest.mark.parametrize("code", [1, 137])
    async def test_exit_code_is_told(self, dial, provider, code):
        provider.exec = exits(code)
        client = await dial(EXEC + "?command=x&output=1", V4)
        streams = await open_streams(client, "error", "stdout")
        assert json.loads(await client.read_all(streams["error"])) == failure(code)

    @pytest.mark.parametrize(
        ("protocol", "code", "text"),
        [
            ("v3.channel.k8s.io", 0, b""),
            ("v3.channel.k8s.io", 3, b"command terminated with non-zero exit code: exit status 3"),
            ("v2.channel.k8s.io", 3, b"command terminated with non-zero exit code: exit status 3"),
            ("channel.k8s.io", 3, b"command terminated with non-zero exit code: exit status 3"),
        ],
    )
    async def test_old_protocols_get_plain_text(self, dial, provider, protocol, code, text):
        provider.exec = exits(code)
        client = await dial(EXEC + "?command=x&output=1", protocol)
        streams = await open_streams(client, "error", "stdout")
        assert await client.read_all(streams["error"]) == text

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (PodSyncError("exec: no such file"), "exec: no such file"),
            (NotFoundError("it does not run"), "it does not run"),
            (ZeroDivisionError("oops"), "oops"),
        ],
    )
    async def test_command_that_cannot_be_run(self, dial, provider, error, message):
        async def run(pod, container, command, streams):
            raise error

        provider.exec = run
        client = await dial(EXEC + "?command=x&output=1", V4)
        streams = await open_streams(client, "error", "stdout")
        assert json.loads(await client.read_all(streams["error"])) == {
            "status": "Failure",
            "message": f"Internal error occurred: error executing command in container: {message}",
            "reason": "InternalError",
            "code": 500,
        }

    async def test_half_closed_stdin_ends_the_input(self, dial, provider):
        provider.exec = cat
        client = await dial(EXEC + "?command=cat&input=1&output=1", V4)
        streams = await open_streams(client, "error", "stdin", "stdout")
        await streams["stdin"].write(b"hello")
        await streams["stdin"].write_eof()
        assert await client.read_all(streams["stdout"]) == b"hello"
        assert await client.read_all(streams["error"]) == SUCCESS

    async def test_terminal_and_its_sizes(self, dial, provider):
        sizes = []

        async def run(pod, container, command, streams):
            assert streams.tty
            assert streams.stderr is None
            async for size in streams.sizes:
                sizes.append(size)
                await streams.stdout.write(b".")
                if len(sizes) == 2:
                    return 0

        provider.exec = run
        client = await dial(EXEC + "?command=sh&input=1&output=1&error=1&tty=1", V4)
        streams = await open_streams(client, "error", "stdin", "stdout", "resize")
        await streams["resize"].write(b'{"Width":80,"Height":24}\n')
        assert await streams["stdout"].read() == b"."
        await streams["resize"].write(b'{"Width":132,"Height":43}\n')
        assert await client.read_all(streams["error"]) == SUCCESS
        assert sizes == [TerminalSize(80, 24), TerminalSize(132, 43)]

    async def test_protocol_is_the_first_of_the_clients_that_we_speak(self, dial, provider):
        provider.exec = exits(0)
        client = await dial(EXEC + ALL, "v5.channel.k8s.io, v3.channel.k8s.io", V4)
        assert client.headers["x-stream-protocol-version"] == "v3.channel.k8s.io"

    async def test_get_is_as_good_as_post_and_names_may_carry_the_uid(self, dial, provider):
        provider.exec = exits(0)
        client = await dial("/exec/default/web/uid-web/app?command=x&output=1", V4, method="GET")
        streams = await open_streams(client, "error", "stdout")
        assert await client.read_all(streams["error"]) == SUCCESS

    @pytest.mark.parametrize("how", ["abort", "close", "go away", "reset stdin unread"])
    async def test_client_that_leaves_ends_the_command(self, dial, provider, how):
        command = provider.exec = Endless()
        client = await dial(EXEC + "?command=x&input=1&output=1", V4)
        streams = await open_streams(client, "error", "stdin", "stdout")
        await command.started.wait()
        if how == "abort":
            client.abort()
        elif how == "close":
            client.writer.close()
        elif how == "go away":
            await client.connection.aclose(linger_s=0)
        else:
            # Nobody reads the input, so the server has stopped reading the connection.
            sender = asyncio.create_task(streams["stdin"].write(b"x" * 32 * 1024 * 1024))
            await asyncio.sleep(0.5)
            assert not sender.done()
            assert not command.killed.is_set()
            client.abort()
            with pytest.raises(ConnectionError):
                await sender
        async with asyncio.timeout(5):
            await command.killed.wait()

    async def test_cancelled_command_does_not_hold_up_the_servers_end(self, node, dial, provider):
        command = provider.exec = Endless()
        client = await dial(EXEC + "?command=x&output=1", V4)
        await open_streams(client, "error", "stdout")
        await command.started.wait()
        async with asyncio.timeout(8):
            await node.server.aclose()
        assert command.killed.is_set()

    async def test_client_that_opens_too_few_streams_is_dropped(self, dial, provider, monkeypatch):
        monkeypatch.setattr("vkprovider.server.remotecommand.STREAM_CREATION_TIMEOUT_S", 0.1)
        command = provider.exec = Endless()
        client = await dial(EXEC + "?command=x&output=1", V4)
        await open_streams(client, "error")
        async with asyncio.timeout(8):
            await client.connection.ended.wait()
        assert not command.started.is_set()

    async def test_streams_nobody_asked_for_do_no_harm(self, dial, provider):
        provider.exec = exits(0, b"hi")
        client = await dial(EXEC + "?command=x&output=1", V4)
        odd = (await open_streams(client, "nonsense", "stdin"))["stdin"]
        await odd.write(b"x" * 100_000)
        streams = await open_streams(client, "error", "stdout")
        assert await client.read_all(streams["stdout"]) == b"hi"

    async def test_idle_connection_is_closed(self, start_server, dial, provider):
        node = await start_server({"authorization_mode": "AlwaysAllow", "streaming_idle_timeout_s": 0.3})
        command = provider.exec = Endless()
        client = await dial(EXEC + "?command=x&output=1", V4, to=node)
        await open_streams(client, "error", "stdout")
        async with asyncio.timeout(8):
            await client.connection.ended.wait()
            await command.killed.wait()

    async def test_broken_frames_end_the_command(self, dial, provider):
        command = provider.exec = Endless()
        client = await dial(EXEC + "?command=x&output=1", V4)
        await open_streams(client, "error", "stdout")
        await command.started.wait()
        client.write(b"\x80\x02garbage" * 10)
        async with asyncio.timeout(8):
            await command.killed.wait()
            await client.connection.closed.wait()

    async def test_slow_reader_holds_the_command_back(self, dial, provider):
        sent = 0

        async def run(pod, container, command, streams):
            nonlocal sent
            while sent < 256 * 1024 * 1024:
                await streams.stdout.write(b"x" * 65536)
                sent += 65536
            return 0

        provider.exec = run
        client = await dial(EXEC + "?command=x&output=1", V4)
        streams = await open_streams(client, "error", "stdout")
        await streams["stdout"].read()
        client.pause_reading()
        before = -1
        async with asyncio.timeout(10):
            while sent != before:
                before = sent
                await asyncio.sleep(0.2)
        assert sent < 32 * 1024 * 1024

    async def test_large_transfer_needs_little_memory(self, dial, provider):
        total = 48 * 1024 * 1024
        provider.exec = cat
        client = await dial(EXEC + "?command=cat&input=1&output=1", V4)
        streams = await open_streams(client, "error", "stdin", "stdout")

        async def send():
            block = b"0123456789abcdef" * 4096
            for _ in range(total // len(block)):
                await streams["stdin"].write(block)
            await streams["stdin"].write_eof()

        async def receive():
            count = 0
            while data := await streams["stdout"].read():
                count += len(data)
            return count

        tracemalloc.start()
        try:
            _, count = await asyncio.gather(send(), receive())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == total
        assert await client.read_all(streams["error"]) == SUCCESS
        assert peak < 24 * 1024 * 1024

    async def test_many_at_once(self, dial, provider):
        provider.exec = cat

        async def one(number):
            client = await dial(EXEC + "?command=cat&input=1&output=1", V4)
            streams = await open_streams(client, "error", "stdin", "stdout")
            text = f"client {number} ".encode() * 1000
            await streams["stdin"].write(text)
            await streams["stdin"].write_eof()
            return await client.read_all(streams["stdout"]) == text

        assert all(await asyncio.gather(*(one(number) for number in range(40))))


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "status", "text"),
        [
            (EXEC + "?command=x", 400, "you must specify at least 1 of stdin, stdout, stderr"),
            ("/exec/default/nope/app?output=1", 404, "pod does not exist"),
            ("/exec/default/web/nope?output=1", 500, 'container not found ("nope")'),
            ("/exec/default/web/other-uid/app?output=1", 500, 'container not found ("app")'),
            ("/attach/default/web/nope?output=1", 500, "container nope not found in pod web_default"),
            ("/portForward/default/nope", 404, "pod does not exist"),
            ("/portForward/default/web/other-uid", 404, "pod not found"),
            (EXEC + "?output=1", 500, "Upgrade request required"),
            ("/attach/default/web/app?output=1", 500, "Upgrade request required"),
            ("/portForward/default/web", 500, "Upgrade request required"),
        ],
    )
    async def test_before_the_upgrade(self, node, get, path, status, text):
        for method in ("GET", "POST"):
            assert (await get(node, path, method=method))[:2] == (status, text)

    async def test_container_that_does_not_run(self, node, get, pods):
        pods.pods[0]["status"]["containerStatuses"] = [{"name": "app", "state": {"waiting": {"reason": "x"}}}]
        assert (await get(node, EXEC + "?output=1"))[:2] == (500, 'container not found ("app")')

    @pytest.mark.parametrize(("path", "what"), [("exec", "exec"), ("attach", "attach")])
    async def test_provider_without_the_ability(self, start_server, get, bare_provider, path, what):
        node = await start_server({"authorization_mode": "AlwaysAllow"}, provider=bare_provider)
        status, text, _ = await get(node, f"/{path}/default/web/app?output=1")
        assert (status, text) == (501, f"{what} is not supported by provider 'bare'")

    async def test_no_protocol_named(self, dial):
        client = await dial(EXEC + ALL)
        assert client.status == 400
        assert client.body == (
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with 3 headers\n"
        )

    async def test_empty_protocol_named(self, dial):
        client = await dial(EXEC + ALL, " , ")
        assert client.status == 400

    async def test_no_common_protocol(self, dial):
        client = await dial(EXEC + ALL, "v9.channel.k8s.io")
        assert client.status == 403
        assert client.headers["x-accepted-stream-protocol-versions"] == (
            "v4.channel.k8s.io,v3.channel.k8s.io,v2.channel.k8s.io,channel.k8s.io"
        )
        assert client.body == (
            "unable to upgrade: unable to negotiate protocol: client supports [v9.channel.k8s.io], server accepts "
            "[v4.channel.k8s.io v3.channel.k8s.io v2.channel.k8s.io channel.k8s.io]\n"
        )

    async def test_upgrade_to_something_else(self, dial):
        client = await dial(EXEC + ALL, V4, headers=(("Connection", "Upgrade"), ("Upgrade", "h2c")))
        assert client.status == 400

    async def test_upgrade_with_a_body(self, dial):
        headers = (("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("Content-Length", "5"))
        client = await dial(EXEC + ALL, V4, headers=headers)
        assert client.status == 400

    async def test_connection_is_usable_after_a_refused_upgrade(self, node, get):
        headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
        assert (await get(node, EXEC + ALL, method="POST", headers=headers))[0] == 400
        assert (await get(node, "/healthz"))[0] == 200

    async def test_without_rights(self, start_server, dial):
        strict = await start_server()
        client = await dial(EXEC + ALL, V4, to=strict)
        assert client.status == 403
        assert client.body == ("Forbidden (user=apiserver, verb=create, resource=nodes, subresource(s)=[proxy])\n")


class TestAttach:
    async def test_terminal_is_what_the_container_has(self, dial, provider, pods, pod_factory):
        pods.pods = [pod_factory(tty=True)]
        seen = []

        async def attach(pod, container, streams):
            seen.append((streams.tty, streams.stderr))
            await streams.stdout.write(await streams.stdin.read())

        provider.attach = attach
        client = await dial("/attach/default/web/app?input=1&output=1&error=1", V4)
        streams = await open_streams(client, "error", "stdin", "stdout", "stderr")
        await streams["stdin"].write(b"hi")
        assert await client.read_all(streams["stdout"]) == b"hi"
        assert await client.read_all(streams["error"]) == SUCCESS
        assert seen == [(True, None)]

    async def test_container_without_stdin_gets_none(self, dial, provider, pods):
        pods.pods[0]["spec"]["containers"][0]["stdin"] = False
        seen = []

        async def attach(pod, container, streams):
            seen.append(streams.stdin)

        provider.attach = attach
        client = await dial("/attach/default/web/app?input=1&output=1", V4)
        streams = await open_streams(client, "error", "stdin", "stdout")
        assert await client.read_all(streams["error"]) == SUCCESS
        assert seen == [None]

    async def test_failure(self, dial, provider):
        async def attach(pod, container, streams):
            raise NotFoundError("gone")

        provider.attach = attach
        client = await dial("/attach/default/web/app?output=1", V4)
        streams = await open_streams(client, "error", "stdout")
        status = json.loads(await client.read_all(streams["error"]))
        assert status["message"] == "Internal error occurred: error attaching to container: gone"


@pytest.fixture
async def ws(node, session):
    """Opens WebSockets on the node."""
    opened = []

    async def connect(path, *protocols, to=None):
        target = to or node
        socket = await session.ws_connect(target.url(path), ssl=target.tls, protocols=protocols, autoclose=False)
        opened.append(socket)
        return socket

    yield connect
    for socket in opened:
        await socket.close()


async def collect(socket):
    """All messages until the server closes, as (channel, bytes) pairs, and the close code."""
    messages = []
    while True:
        message = await socket.receive(timeout=10)
        if message.type is aiohttp.WSMsgType.CLOSE:
            return messages, message.data
        if message.type is aiohttp.WSMsgType.BINARY:
            messages.append((message.data[0], message.data[1:]))
        else:
            assert message.type is aiohttp.WSMsgType.TEXT, message
            messages.append((int(message.data[0]), base64.b64decode(message.data[1:])))


def joined(messages, channel):
    return b"".join(data for number, data in messages if number == channel)


class TestWebSocket:
    @pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v5.channel.k8s.io", "v4.base64.channel.k8s.io"])
    async def test_output_and_json_status(self, ws, provider, protocol):
        provider.exec = exits(3, b"out" * 50_000, b"err")
        socket = await ws(EXEC + "?command=x&output=1&error=1", protocol)
        assert socket.protocol == protocol
        messages, code = await collect(socket)
        assert messages[0] == (1, b"")
        assert joined(messages, 1) == b"out" * 50_000
        assert joined(messages, 2) == b"err"
        assert messages[-1][0] == 3
        assert json.loads(messages[-1][1]) == failure(3)
        assert code == 1000

    @pytest.mark.parametrize("protocol", [None, "channel.k8s.io", "base64.channel.k8s.io"])
    async def test_oldest_protocols_say_nothing_on_success(self, ws, provider, protocol):
        provider.exec = exits(0, b"out")
        socket = await ws(EXEC + "?command=x&output=1&error=1", *([protocol] if protocol else []))
        assert socket.protocol == protocol
        messages, _ = await collect(socket)
        assert messages == [(1, b""), (1, b"out")]

    async def test_oldest_protocols_get_plain_text_on_failure(self, ws, provider):
        provider.exec = exits(1)
        socket = await ws(EXEC + "?command=x&output=1", "channel.k8s.io")
        messages, _ = await collect(socket)
        assert messages[-1] == (3, b"command terminated with non-zero exit code: exit status 1")

    @pytest.mark.parametrize(
        ("query", "channel"), [("output=1&error=1", 1), ("error=1", 2), ("input=1", 3)], ids=["out", "err", "in"]
    )
    async def test_empty_frame_on_the_lowest_channel_comes_first(self, ws, provider, query, channel):
        provider.exec = exits(0)
        socket = await ws(f"{EXEC}?command=x&{query}", V4)
        messages, _ = await collect(socket)
        assert messages[0] == (channel, b"")

    async def test_v5_half_closes_stdin(self, ws, provider):
        provider.exec = cat
        socket = await ws(EXEC + "?command=cat&input=1&output=1", "v5.channel.k8s.io")
        for _ in range(20):
            await socket.send_bytes(b"\x00" + b"x" * 100_000)
        await socket.send_bytes(b"\xff\x00")
        messages, _ = await collect(socket)
        assert joined(messages, 1) == b"x" * 2_000_000
        assert json.loads(joined(messages, 3)) == {"status": "Success"}

    async def test_base64_stdin_and_unknown_channels(self, ws, provider):
        async def head(pod, container, command, streams):
            await streams.stdout.write(await streams.stdin.read())
            return 0

        provider.exec = head
        socket = await ws(EXEC + "?command=head&input=1&output=1", "base64.channel.k8s.io")
        await socket.send_str("0***")
        await socket.send_str("9aGk=")
        await socket.send_str("")
        await socket.send_str("0aGk=")
        messages, _ = await collect(socket)
        assert messages == [(1, b""), (1, b"hi")]

    async def test_sizes(self, ws, provider):
        async def run(pod, container, command, streams):
            size = await anext(streams.sizes)
            await streams.stdout.write(f"{size.width}x{size.height}".encode())
            return 0

        provider.exec = run
        socket = await ws(EXEC + "?command=sh&input=1&output=1&tty=1", "v5.channel.k8s.io")
        await socket.send_bytes(b'\x04{"Width":90,"Height":30}')
        messages, _ = await collect(socket)
        assert joined(messages, 1) == b"90x30"

    async def test_no_common_protocol(self, node, ws, session):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await ws(EXEC + "?command=x&output=1", "v9.channel.k8s.io")
        assert caught.value.status == 403

    @pytest.mark.parametrize("how", ["close", "abort", "bad close signal", "abort with full stdin"])
    async def test_client_that_leaves_ends_the_command(self, ws, provider, how):
        command = provider.exec = Endless()
        socket = await ws(EXEC + "?command=x&input=1&output=1", "v5.channel.k8s.io")
        await command.started.wait()
        if how == "close":
            await socket.close()
        elif how == "bad close signal":
            await socket.send_bytes(b"\xff")
        else:
            if how == "abort with full stdin":
                for _ in range(10):
                    await socket.send_bytes(b"\x00" + b"x" * 65536)
            socket._response.connection.transport.abort()
        async with asyncio.timeout(5):
            await command.killed.wait()

    async def test_idle_websocket_is_closed(self, start_server, ws, provider):
        node = await start_server({"authorization_mode": "AlwaysAllow", "streaming_idle_timeout_s": 0.3})
        command = provider.exec = Endless()
        socket = await ws(EXEC + "?command=x&output=1", V4, to=node)
        await collect(socket)
        assert command.killed.is_set()

    async def test_ping_is_answered(self, ws, provider):
        provider.exec = Endless()
        socket = await ws(EXEC + "?command=x&output=1", V4)
        await socket.receive()
        await socket.ping(b"hello")
        # The client answers pongs to itself unless told otherwise, so look at the raw stream of messages.
        assert not socket.closed

    async def test_slow_reader_holds_the_command_back(self, ws, provider):
        sent = 0

        async def run(pod, container, command, streams):
            nonlocal sent
            while sent < 256 * 1024 * 1024:
                await streams.stdout.write(b"x" * 65536)
                sent += 65536
            return 0

        provider.exec = run
        socket = await ws(EXEC + "?command=x&output=1", V4)
        await socket.receive()
        before = -1
        async with asyncio.timeout(10):
            while sent != before:
                before = sent
                await asyncio.sleep(0.2)
        assert sent < 32 * 1024 * 1024
        socket._response.connection.transport.abort()


class TestRun:
    async def test_output_of_both_streams_is_answered(self, node, get, provider):
        seen = []

        async def run(pod, container, command, streams):
            seen.append(command)
            await streams.stdout.write(b"out ")
            await streams.stderr.write(b"err")
            return 0

        provider.exec = run
        status, text, headers = await get(node, "/run/default/web/app?cmd=ls+-l", method="POST")
        assert (status, text) == (200, "out err")
        assert headers["Content-Type"] == "application/json"
        assert seen == [["ls", "-l"]]

    async def test_failing_command_is_an_error(self, node, get, provider):
        provider.exec = exits(2, b"bad")
        status, text, _ = await get(node, "/run/default/web/app?cmd=x", method="POST")
        assert (status, text) == (500, "command 'x' exited with 2: bad")

    async def test_unknown_names(self, node, get):
        assert (await get(node, "/run/default/nope/app?cmd=x", method="POST"))[:2] == (404, "pod does not exist")
        assert (await get(node, "/run/default/web/no?cmd=x", method="POST"))[:2] == (
            500,
            'container not found ("no")',
        )
