from __future__ import annotations

import http.server
import json
import ssl
import threading

import pytest

from support.agent import AgentError, VkproviderAgent
from support.controlplane import write_kubeconfig
from support.pki import CertificateAuthority
from support.waiting import wait_for

# In the agent's place: a program that says what it was told and goes on until told to end.
STANDIN = """
import signal, sys, time
print("arguments", sys.argv[1:], flush=True)
signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))
while True: time.sleep(0.05)
"""


@pytest.fixture
def node(tmp_path):
    """An API server that has one node, whose conditions the test sets; ``kubeconfig`` leads to it."""
    authority = CertificateAuthority(tmp_path)
    server_pair = authority.issue("server", "server", hosts=["127.0.0.1"])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            conditions = server.conditions
            self.send_response(404 if conditions is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"status": {"conditions": conditions}}).encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server_pair.certificate, server_pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.conditions = None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.kubeconfig = tmp_path / "kubeconfig"
    url = f"https://127.0.0.1:{server.server_port}"
    write_kubeconfig(server.kubeconfig, url, authority.files.certificate, authority.issue("client", "client"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def agent(node, tmp_path):
    package = tmp_path / "package" / "vkprovider"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STANDIN)
    agent = VkproviderAgent(
        node.kubeconfig,
        "n1",
        directory=tmp_path / "agent",
        config={"maxPods": 7},
        arguments=["--standby"],
        environment={"PYTHONPATH": str(package.parent)},
    )
    yield agent
    agent.stop()


def test_it_is_told_its_node_and_files(agent):
    agent.start()
    wait_for(lambda: "arguments" in agent.log(), "what it was told")
    assert "'run', " in agent.log()
    assert "--node-name=n1" in agent.log()
    assert "'--standby'" in agent.log()
    config = (agent.directory / "config.yaml").read_text()
    assert "kind: KubeletConfiguration" in config
    assert "maxPods: 7" in config


def test_readiness_is_what_the_api_server_says(agent, node):
    agent.start()
    with pytest.raises(AgentError, match=r"not Ready after 0.3 s: GET of the node is answered 404"):
        agent.wait_ready(timeout_s=0.3)
    node.conditions = [{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "no runtime"}]
    with pytest.raises(AgentError, match="Ready is False: KubeletNotReady: no runtime"):
        agent.wait_ready(timeout_s=0.3)
    node.conditions = [{"type": "Ready", "status": "True"}]
    agent.wait_ready(timeout_s=10)


def test_an_agent_that_ends_is_not_waited_for(agent):
    agent.start()
    agent.kill9()
    with pytest.raises(AgentError, match="ended with -9 before its node was Ready"):
        agent.wait_ready(timeout_s=60)


def test_it_starts_again_after_a_kill_and_after_a_stop(agent):
    agent.start()
    first = agent.pid
    wait_for(lambda: "arguments" in agent.log(), "the first start")
    with pytest.raises(AgentError, match="runs already"):
        agent.start()
    agent.kill9()
    assert not agent.is_running
    agent.start()
    assert agent.pid != first
    assert agent.is_running
    wait_for(lambda: agent.log().count("arguments") == 2, "the second start")
    assert agent.stop() == 0
    assert agent.stop() == 0
