"""A real control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler on loopback.

It has what a kubelet expects of a cluster: Node and RBAC authorisation, NodeRestriction, client certificates for users, the
API server's own for the kubelet API, service-account tokens, signers. Ready in about five seconds; nothing is left when the
last user is gone, however it went.

One control plane can serve several processes: each makes a ``ControlPlane`` of the same directory. The first starts it, the
others join, the last one's ``stop`` ends it. Tests that share one keep apart by namespace and node name; a test that stops or
pauses a component takes one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import yaml

from support import controlplane_build
from support.cache import file_lock
from support.child import is_alive, wait_gone
from support.pki import CertificateAuthority, KeyPair, write_rsa_key
from support.ports import free_ports, host_ip
from support.supervisor import STOP_GRACE_S, Check, Program, read_state, write_plan

SERVICE_CIDR = "10.96.0.0/16"
SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc.cluster.local"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")

# Who did what to which object, from the tests' users only: the components' own traffic would bury it.
_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:apiserver", "system:kube-scheduler", "system:kube-controller-manager"]
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
- level: Metadata
"""


class ControlPlaneError(Exception):
    """The control plane did not start, or did not do what it was told; the text has the end of the log."""


class ControlPlane:
    """A handle on a control plane; ``start`` starts it or joins the one that runs in the directory.

    Use it as a context manager, plain or async, or through ``start`` and ``stop``.

    Args:
        directory: Holds certificates, logs and kubeconfigs; they stay after the end, the data does not.
        binaries: Directory of the programs; None finds or builds them (``support.controlplane_build``).
        bind_address: Where the API server listens; ``0.0.0.0`` if containers have to reach it.
        apiserver_flags: Further flags of kube-apiserver; they win over ours.
        controller_manager_flags: Further flags of kube-controller-manager.
        audit: Whether requests are logged for ``audit_events``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binaries: Path | None = None,
        bind_address: str = "127.0.0.1",
        apiserver_flags: Sequence[str] = (),
        controller_manager_flags: Sequence[str] = (),
        audit: bool = False,
    ) -> None:
        self._directory = directory.absolute()
        self._binaries = binaries
        self._bind_address = bind_address
        self._apiserver_flags = tuple(apiserver_flags)
        self._controller_manager_flags = tuple(controller_manager_flags)
        self._audit = audit
        self._run: Path | None = None
        self._use: IO[str] | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    # Life

    def start(self, *, timeout_s: float = 120.0) -> None:
        """Start it, or join it; return when it is ready: every component answers and service accounts are made.

        Args:
            timeout_s: Seconds a start may take, without the build of the programs.

        Raises:
            ControlPlaneUnavailableError: There are no programs.
            ControlPlaneError: It did not start.
        """
        if self._use is not None:
            raise ControlPlaneError("this control plane is started already")
        binaries = self._binaries or controlplane_build.ensure_binaries()
        self._binaries = binaries
        self._directory.mkdir(parents=True, exist_ok=True)
        with file_lock(self._directory / "start.lock"):
            use = (self._directory / "users.lock").open("a")
            try:
                fcntl.flock(use, fcntl.LOCK_SH)  # waits for the end of one that is about to stop
                run = self._find_running() or self._start_new(binaries, time.monotonic() + timeout_s)
            except BaseException:
                use.close()
                raise
            self._run, self._use = run, use

    def stop(self) -> None:
        """Let go of it; as the last user, wait until it has ended. Safe to repeat."""
        use, run, self._use = self._use, self._run, None
        if use is None or run is None:
            return
        use.close()
        try:
            if self._end_if_unused(run):
                shutil.rmtree(run / "etcd", ignore_errors=True)
        finally:
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is not None and supervisor.poll() is None:
                supervisor.returncode = 0  # others use it still; it ends by itself

    def _end_if_unused(self, run: Path) -> bool:
        """Whether nobody used it any more; then it has ended.

        Raises:
            ControlPlaneError: It had to be killed.
        """
        with (self._directory / "users.lock").open("a") as probe:
            for _ in range(3):
                state = read_state(run)
                if state.get("state") in ("stopping", "stopped", "failed"):
                    break
                try:
                    fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # held by another user, or by the supervisor that just saw that none is left
                    time.sleep(0.05)
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state["pid"], signal.SIGTERM)
                break
            else:
                return False
            if not wait_gone(state["pid"], timeout_s=STOP_GRACE_S + 10):
                os.kill(state["pid"], signal.SIGKILL)  # the kernel kills the components then
                raise ControlPlaneError(f"the supervisor of {run} did not end and was killed")
            return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await starting  # a thread cannot be cancelled
                await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    # What it offers

    @property
    def run_dir(self) -> Path:
        """Directory of the files of this run; logs are in ``log/``."""
        if self._run is None:
            raise ControlPlaneError("this control plane is not started")
        return self._run

    @property
    def binaries(self) -> Path:
        """Directory of the programs, kubectl among them."""
        if self._binaries is None:
            raise ControlPlaneError("this control plane is not started")
        return self._binaries

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(json.loads((self.run_dir / "info.json").read_text())["server"])

    @property
    def client_ca(self) -> Path:
        """CA that signs clients' certificates, among them the one the API server shows to kubelets."""
        return self.run_dir / "pki" / "ca.crt"

    @property
    def admin(self) -> KeyPair:
        """Certificate and key of a member of ``system:masters``."""
        return KeyPair(self.run_dir / "pki" / "admin.crt", self.run_dir / "pki" / "admin.key")

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of a member of ``system:masters``."""
        return self.run_dir / "admin.kubeconfig"

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Make a kubeconfig for a user, who may do only what RBAC grants: ``system:node:<name>`` in ``system:nodes``, say.

        The same user and groups give the same file.
        """
        authority = CertificateAuthority(self.run_dir / "pki", "ca")
        stem = "user-" + re.sub(r"[^-A-Za-z0-9.]", "_", "+".join([user, *groups]))
        path = self.run_dir / f"{stem}.kubeconfig"
        with file_lock(self.run_dir / "users-made.lock"):
            if not path.exists():
                pair = authority.issue(stem, user, organizations=groups)
                write_kubeconfig(path, self.server, self.client_ca, pair)
        return path

    def node_kubeconfig(self, node: str) -> Path:
        """Kubeconfig of a node: what the Node authorizer and NodeRestriction let it do."""
        return self.kubeconfig_for(f"system:node:{node}", ["system:nodes"])

    def get(self, path: str) -> Any:
        """GET a path of the API as admin.

        Raises:
            ControlPlaneError: The answer was not 200.
            OSError: There was no answer.
        """
        status, body = self._check(path).get(timeout_s=30)
        if status != 200:
            raise ControlPlaneError(f"GET {path} was answered {status}: {body[:500].decode(errors='replace')}")
        return json.loads(body)

    def audit_events(self, *, user: str | None = None) -> list[dict[str, Any]]:
        """Requests answered so far, oldest first, as ``audit.k8s.io/v1`` Events; those of the components are left out.

        Args:
            user: Only this user's.
        """
        if not (path := self.run_dir / "audit.log").exists():
            raise ControlPlaneError("this control plane was started without audit=True")
        lines = path.read_text().splitlines(keepends=True)
        events: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if user is None or event["user"]["username"] == user]

    def log(self, component: str) -> str:
        """What a component wrote."""
        return (self.run_dir / "log" / f"{component}.log").read_text(errors="replace")

    # Faults

    def pid(self, component: str) -> int:
        """Process id of a component."""
        return int((self.run_dir / f"{component}.pid").read_text())

    def stop_component(self, component: str, *, timeout_s: float = 30.0) -> None:
        """End a component and keep it down until ``start_component``."""
        (self.run_dir / f"hold-{component}").touch()
        self._wait(lambda: not (self.run_dir / f"{component}.pid").exists(), f"{component} to end", timeout_s)

    def start_component(self, component: str, *, timeout_s: float = 60.0) -> None:
        """Start a component again and wait until it is ready."""
        (self.run_dir / f"hold-{component}").unlink(missing_ok=True)
        self._wait((self.run_dir / f"{component}.pid").exists, f"{component} to start", timeout_s)
        for check in self._checks():
            self._wait(check.passes, f"{check.url} to answer", timeout_s)

    @contextlib.contextmanager
    def outage(self, component: str = "kube-apiserver") -> Iterator[None]:
        """A component is down: connections are refused."""
        self.stop_component(component)
        try:
            yield
        finally:
            self.start_component(component)

    @contextlib.contextmanager
    def pause(self, component: str = "kube-apiserver") -> Iterator[None]:
        """A component hangs: connections are taken, nothing is answered."""
        pid = self.pid(component)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def async_outage(self, component: str = "kube-apiserver") -> AsyncIterator[None]:
        """``outage`` for async tests: waits without blocking the loop."""
        await asyncio.to_thread(self.stop_component, component)
        try:
            yield
        finally:
            await asyncio.to_thread(self.start_component, component)

    # Inside

    def _find_running(self) -> Path | None:
        """Directory of the run that goes on, if any."""
        try:
            run = self._directory / (self._directory / "current").read_text()
        except OSError:
            return None
        state = read_state(run)
        return run if state.get("state") == "running" and is_alive(state["pid"]) else None

    def _start_new(self, binaries: Path, deadline: float) -> Path:
        for attempt in range(1, 4):
            number = sum(1 for path in self._directory.glob("run-*")) + 1
            run = self._directory / f"run-{number}"
            run.mkdir()
            self._prepare(run, binaries)
            with (run / "supervisor.log").open("ab") as log:
                supervisor = subprocess.Popen(
                    [sys.executable, "-m", "support.supervisor", str(run)],
                    cwd=run,
                    env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            try:
                self._wait_ready(run, supervisor, deadline)
            except ControlPlaneError as error:
                _end(supervisor)
                if "address already in use" in str(error) and attempt < 3:
                    continue
                raise
            except BaseException:
                _end(supervisor)
                raise
            (self._directory / "current").write_text(run.name)
            self._supervisor = supervisor
            return run
        raise AssertionError("unreachable")

    def _prepare(self, run: Path, binaries: Path) -> None:
        pki = run / "pki"
        authority = CertificateAuthority(pki, "ca")
        front_proxy = CertificateAuthority(pki, "front-proxy-ca")
        hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        addresses = sorted({"127.0.0.1", "10.96.0.1", "172.17.0.1", host_ip()})
        authority.issue("apiserver", "kube-apiserver", hosts=[*hosts, *addresses])
        masters = ["system:masters"]
        admin = authority.issue("admin", "admin", organizations=masters)
        authority.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", organizations=masters)
        manager = authority.issue("controller-manager", "system:kube-controller-manager")
        scheduler = authority.issue("scheduler", "system:kube-scheduler")
        front_proxy.issue("front-proxy-client", "front-proxy-client")
        write_rsa_key(pki / "sa.key", pki / "sa.pub")

        ports = dict(zip(("api", "etcd", "peer", "manager", "scheduler"), free_ports(5), strict=True))
        server = f"https://127.0.0.1:{ports['api']}"
        (run / "info.json").write_text(json.dumps({"server": server, "ports": ports}))
        for name, pair in (("admin", admin), ("controller-manager", manager), ("scheduler", scheduler)):
            write_kubeconfig(run / f"{name}.kubeconfig", server, authority.files.certificate, pair)
        audit_flags = []
        if self._audit:
            (run / "audit-policy.yaml").write_text(_AUDIT_POLICY)
            audit_flags = [f"--audit-policy-file={run}/audit-policy.yaml", f"--audit-log-path={run}/audit.log"]

        client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "peer"))
        ready = Check(
            f"{server}/readyz", *(str(p) for p in (authority.files.certificate, admin.certificate, admin.key))
        )
        write_plan(
            run,
            [
                Program(
                    "etcd",
                    [
                        str(binaries / "etcd"),
                        f"--data-dir={run}/etcd",
                        f"--listen-client-urls={client}",
                        f"--advertise-client-urls={client}",
                        f"--listen-peer-urls={peer}",
                        f"--initial-advertise-peer-urls={peer}",
                        f"--initial-cluster=default={peer}",
                        "--unsafe-no-fsync",
                        "--log-level=error",
                    ],
                ),
                Program(
                    "kube-apiserver",
                    [
                        str(binaries / "kube-apiserver"),
                        f"--etcd-servers={client}",
                        f"--secure-port={ports['api']}",
                        f"--bind-address={self._bind_address}",
                        "--advertise-address=127.0.0.1",
                        f"--tls-cert-file={pki}/apiserver.crt",
                        f"--tls-private-key-file={pki}/apiserver.key",
                        f"--client-ca-file={pki}/ca.crt",
                        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
                        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
                        "--kubelet-preferred-address-types=InternalIP,Hostname",
                        f"--service-account-key-file={pki}/sa.pub",
                        f"--service-account-signing-key-file={pki}/sa.key",
                        f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
                        "--authorization-mode=Node,RBAC",
                        "--enable-admission-plugins=NodeRestriction",
                        f"--service-cluster-ip-range={SERVICE_CIDR}",
                        "--allow-privileged=true",
                        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
                        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
                        f"--proxy-client-key-file={pki}/front-proxy-client.key",
                        "--requestheader-allowed-names=front-proxy-client",
                        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                        "--requestheader-group-headers=X-Remote-Group",
                        "--requestheader-username-headers=X-Remote-User",
                        "--endpoint-reconciler-type=none",
                        "--profiling=false",
                        *audit_flags,
                        *self._apiserver_flags,
                    ],
                ),
                Program(
                    "kube-controller-manager",
                    [
                        str(binaries / "kube-controller-manager"),
                        *_client_flags(run / "controller-manager.kubeconfig"),
                        f"--secure-port={ports['manager']}",
                        f"--root-ca-file={pki}/ca.crt",
                        f"--service-account-private-key-file={pki}/sa.key",
                        f"--cluster-signing-cert-file={pki}/ca.crt",
                        f"--cluster-signing-key-file={pki}/ca.key",
                        "--use-service-account-credentials",
                        "--allocate-node-cidrs=false",
                        "--controllers=*,bootstrapsigner,tokencleaner",
                        *self._controller_manager_flags,
                    ],
                    after=ready,
                ),
                Program(
                    "kube-scheduler",
                    [
                        str(binaries / "kube-scheduler"),
                        *_client_flags(run / "scheduler.kubeconfig"),
                        f"--secure-port={ports['scheduler']}",
                    ],
                    after=ready,
                ),
            ],
            self._directory / "users.lock",
        )

    def _wait_ready(self, run: Path, supervisor: subprocess.Popen[bytes], deadline: float) -> None:
        self._run = run
        waiting_for = "the supervisor"
        try:
            while True:
                if supervisor.poll() is not None or read_state(run).get("state") == "failed":
                    state = read_state(run)
                    said = (run / "supervisor.log").read_text(errors="replace").strip()
                    raise ControlPlaneError(
                        f"the control plane did not start: {state.get('message') or said or 'no reason given'} "
                        f"(logs: {run}/log)"
                    )
                if read_state(run).get("state") == "running":
                    late = [check.url for check in self._checks() if not check.passes()]
                    if not late:
                        return
                    waiting_for = ", ".join(late)
                if time.monotonic() > deadline:
                    raise ControlPlaneError(
                        f"the control plane is not ready in time: no 200 from {waiting_for} ({run}/log)"
                    )
                time.sleep(0.1)
        finally:
            self._run = None

    def _checks(self) -> list[Check]:
        ports = json.loads((self.run_dir / "info.json").read_text())["ports"]
        return [
            self._check("/readyz"),
            Check(f"https://127.0.0.1:{ports['manager']}/healthz"),
            Check(f"https://127.0.0.1:{ports['scheduler']}/healthz"),
            self._check("/api/v1/namespaces/default/serviceaccounts/default"),  # no pod can be made before
        ]

    def _check(self, path: str) -> Check:
        pair = self.admin
        return Check(self.server + path, str(self.client_ca), str(pair.certificate), str(pair.key))

    def _wait(self, condition: Any, what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if (state := read_state(self.run_dir)).get("state") == "failed":
                raise ControlPlaneError(f"the control plane failed: {state['message']}")
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"waited {timeout_s:.0f} s for {what} (logs: {self.run_dir}/log)")
            time.sleep(0.1)


def write_kubeconfig(path: Path, server: str, authority: Path, pair: KeyPair) -> None:
    """Write a kubeconfig that names certificate files."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "test", "user": {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(yaml.safe_dump(content, sort_keys=False))
    temporary.rename(path)


def _client_flags(kubeconfig: Path) -> list[str]:
    """Flags of a component that talks to the API server; alone of its kind, so without an election."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]


def _end(supervisor: subprocess.Popen[bytes]) -> None:
    supervisor.terminate()
    try:
        supervisor.wait(timeout=STOP_GRACE_S + 10)
    except subprocess.TimeoutExpired:
        supervisor.kill()  # the kernel kills the components then
        supervisor.wait()
