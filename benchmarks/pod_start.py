"""How fast pods start and go away on a node, seen by a client of the API server; any node agent can be measured.

    python benchmarks/pod_start.py --kubeconfig F --node N --pods 40 [--rate 1] [--image I] [--pid P ...] [--idle 30]

Creates pods that are bound to the node already, so that no scheduler is measured; times creation answered to Ready seen on one watch,
then deletion asked to gone. For each ``--pid`` also CPU seconds and resident memory. ``--idle S`` measures CPU for S seconds while all
pods run and nothing happens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

TICKS_PER_S = 100


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class Bench:
    def __init__(self, options: argparse.Namespace, session: aiohttp.ClientSession, server: str) -> None:
        self.options = options
        self.session = session
        self.namespace = f"bench-{int(time.time())}"
        self.server = server
        self.pods_url = f"{server}/api/v1/namespaces/{self.namespace}/pods"
        self.created: dict[str, float] = {}
        self.ready: dict[str, float] = {}
        self.deleted: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        self.changed = asyncio.Event()
        self.slots = asyncio.Semaphore(options.concurrency)

    async def run(self) -> None:
        async with self.session.post(
            f"{self.server}/api/v1/namespaces", json={"metadata": {"name": self.namespace}}
        ) as answer:
            answer.raise_for_status()
        account = f"{self.server}/api/v1/namespaces/{self.namespace}/serviceaccounts/default"
        while True:
            async with self.session.get(account) as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.1)
        watching = asyncio.create_task(self.watch())
        await asyncio.sleep(0.5)
        try:
            await self.measure("start", self.create_all, self.ready, self.created)
            if self.options.idle:
                await self.measure_idle()
            if not self.options.keep:
                await self.measure("stop", self.delete_all, self.gone, self.deleted)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            if not self.options.keep:
                await self.session.delete(f"{self.server}/api/v1/namespaces/{self.namespace}")

    async def measure(self, what: str, act: Any, seen: dict[str, float], asked: dict[str, float]) -> None:
        wanted, before = self.options.pods, {pid: cpu_seconds(pid) for pid in self.options.pid}
        began = time.perf_counter()
        await act()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.options.timeout):
                while len(seen) < wanted:
                    self.changed.clear()
                    await self.changed.wait()
        took = time.perf_counter() - began
        latencies = [max(0.0, seen[name] - asked[name]) for name in seen]
        print(
            f"{what}: {len(seen)}/{wanted} in {took:.2f} s, {len(seen) / took:.2f} pods/s; latency s "
            f"p50 {quantile(latencies, 0.5):.3f} p90 {quantile(latencies, 0.9):.3f} p99 {quantile(latencies, 0.99):.3f}"
        )
        for pid in self.options.pid:
            used = cpu_seconds(pid) - before[pid]
            print(
                f"  pid {pid}: {used:.2f} s CPU, {1000 * used / max(1, len(seen)):.1f} ms a pod, {resident_mb(pid):.0f} MB"
            )

    async def measure_idle(self) -> None:
        await asyncio.sleep(15)
        before = {pid: cpu_seconds(pid) for pid in self.options.pid}
        await asyncio.sleep(self.options.idle)
        for pid in self.options.pid:
            share = (cpu_seconds(pid) - before[pid]) / self.options.idle
            print(
                f"idle: pid {pid}: {100 * share:.2f} % of a core over {self.options.idle:g} s, {resident_mb(pid):.0f} MB"
            )

    async def create_all(self) -> None:
        await asyncio.gather(*(self.create(index) for index in range(self.options.pods)))

    async def create(self, index: int) -> None:
        if self.options.rate:
            await asyncio.sleep(index / self.options.rate)
        name = f"p-{index}"
        pod = {
            "metadata": {"name": name},
            "spec": {
                "nodeName": self.options.node,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "tolerations": [{"operator": "Exists"}],
                "containers": [
                    {
                        "name": "c",
                        "image": self.options.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sleep", "3600"],
                        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
                    }
                ],
            },
        }
        async with self.slots, self.session.post(self.pods_url, json=pod) as answer:
            if answer.status != 201:
                raise SystemExit(f"pod {name} was refused: {await answer.text()}")
            self.created[name] = time.perf_counter()

    async def delete_all(self) -> None:
        await asyncio.gather(*(self.delete(name) for name in self.created))

    async def delete(self, name: str) -> None:
        async with self.slots, self.session.delete(f"{self.pods_url}/{name}") as answer:
            await answer.read()
            self.deleted[name] = time.perf_counter()

    async def watch(self) -> None:
        while True:
            params = {"watch": "1", "resourceVersion": "0"}
            async with self.session.get(self.pods_url, params=params, read_bufsize=2**22) as answer:
                async for line in answer.content:
                    event, now = json.loads(line), time.perf_counter()
                    name = event["object"]["metadata"].get("name")
                    if event["type"] == "DELETED":
                        self.gone.setdefault(name, now)
                    elif is_ready(event["object"]):
                        self.ready.setdefault(name, now)
                    self.changed.set()


def connect(kubeconfig: str) -> tuple[str, ssl.SSLContext]:
    """Server and TLS context of a kubeconfig with client-certificate files."""
    content = yaml.safe_load(Path(kubeconfig).read_text())
    cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    context.load_cert_chain(user["client-certificate"], user["client-key"])
    return cluster["server"], context


async def amain(options: argparse.Namespace) -> None:
    server, context = connect(options.kubeconfig)
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        await Bench(options, session, server).run()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--pods", type=int, default=40)
    parser.add_argument("--rate", type=float, default=0.0, help="pods a second; 0 for all at once")
    parser.add_argument("--image", default="busybox:1.37")
    parser.add_argument("--pid", type=int, action="append", default=[], help="process to measure; repeatable")
    parser.add_argument("--idle", type=float, default=0.0, help="seconds to measure at rest")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--concurrency", type=int, default=20)
    parser.add_argument("--keep", action="store_true", help="leave the pods")
    asyncio.run(amain(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
