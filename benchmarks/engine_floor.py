"""What a pod costs the Docker Engine at least: two containers by bare API calls, and their removal.

    python benchmarks/engine_floor.py --pods 40 --parallel 40

A pod is a sandbox container on the default network and one container that joins it; each is created, started and inspected.
Removals go four at a time: engines have been seen to hang when dozens of containers leave a bridge at once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import docker

REMOVALS_AT_ONCE = 4


def start_pod(client: docker.APIClient, options: argparse.Namespace, index: int) -> tuple[float, str, str]:
    began = time.perf_counter()
    host = client.create_host_config(network_mode="bridge", ipc_mode="shareable")
    sandbox = client.create_container(options.pause, name=f"floor_s_{index}", host_config=host)["Id"]
    client.start(sandbox)
    if not client.inspect_container(sandbox)["NetworkSettings"]["IPAddress"]:
        raise SystemExit("the sandbox has no address")
    host = client.create_host_config(network_mode=f"container:{sandbox}", ipc_mode=f"container:{sandbox}")
    app = client.create_container(options.image, ["sleep", "3600"], name=f"floor_a_{index}", host_config=host)["Id"]
    client.start(app)
    if not client.inspect_container(app)["State"]["Running"]:
        raise SystemExit("the container does not run")
    return time.perf_counter() - began, sandbox, app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=10)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--pause", default="registry.k8s.io/pause:3.10.1")
    parser.add_argument("--image", default="busybox:1.37")
    options = parser.parse_args()
    client = docker.APIClient(timeout=120, max_pool_size=64, version="auto")
    began = time.perf_counter()
    with ThreadPoolExecutor(options.parallel) as pool:
        pods = list(pool.map(lambda index: start_pod(client, options, index), range(options.pods)))
    took = time.perf_counter() - began
    with ThreadPoolExecutor(REMOVALS_AT_ONCE) as pool:
        for _, sandbox, app in pods:
            pool.submit(client.remove_container, app, force=True)
            pool.submit(client.remove_container, sandbox, force=True)
    seconds = sorted(pod[0] for pod in pods)
    print(
        f"{options.pods} pods, {options.parallel} at once: {took:.2f} s, {options.pods / took:.2f} pods/s; "
        f"one pod p50 {statistics.median(seconds):.3f} s, slowest {seconds[-1]:.3f} s"
    )


if __name__ == "__main__":
    main()
