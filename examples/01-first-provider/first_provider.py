"""A first provider: the containers of a pod are processes on this machine, their logs are files."""

import asyncio
import os
import signal
from contextlib import suppress

from vkprovider.aio.broadcast import Broadcast
from vkprovider.aio.tasks import TaskPool
from vkprovider.api.pods import TERMINAL_PHASES, get_uid
from vkprovider.api.timestamps import format_time
from vkprovider.errors import InvalidPodError, NotFoundError
from vkprovider.provider import LogsCapability, PodProvider, ProviderFactory, ProviderPod, SyncResult
from vkprovider.resolve.env import EnvSources, make_environment


class LocalProcesses(PodProvider, LogsCapability):
    name = "local"

    def __init__(self, log_dir):
        # UID to the pod and its runs: container name to process, time of its start, task that waits for its end.
        self.pods = {}
        self.log_dir, self.changes, self.watchers = log_dir, Broadcast(), TaskPool("local")

    async def start(self, node):
        self.clock = node.clock
        self.log_dir.mkdir(parents=True, exist_ok=True)

    async def stop(self):  # pods should outlive the node's process; these are its children, so they do not
        for uid in self.pods:
            self.send_signal(uid, signal.SIGKILL)
        await self.watchers.join()

    async def sync_pod(self, pod, context):
        _, runs = self.pods.setdefault(get_uid(pod), (pod, {}))
        for container in pod["spec"]["containers"]:
            if container["name"] not in runs:
                runs[container["name"]] = await self.launch(pod, container, context)
        status = await self.get_pod_status(pod, context)
        return SyncResult(status, terminal=status["phase"] in TERMINAL_PHASES)

    async def launch(self, pod, container, context):
        if not (argv := [*container.get("command", ()), *container.get("args", ())]):
            raise InvalidPodError(f"container {container['name']} needs a command: a local process has no image")
        env = os.environ | await make_environment(pod, container, context=EnvSources(context.objects))
        with self.log_path(get_uid(pod), container["name"]).open("wb") as log:
            process = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log, env=env, process_group=0)
        return process, self.clock.now(), self.watchers.spawn(self.watch(get_uid(pod), process), name="watch")

    async def watch(self, uid, process):
        await process.wait()
        self.changes.publish(uid)  # has the node sync the pod
        return self.clock.now()

    def pod_changes(self):
        return self.changes.subscribe()

    async def terminate_pod(self, pod, context, *, grace_period_s):
        for number, patience_s in ((signal.SIGTERM, grace_period_s), (signal.SIGKILL, None)):
            if running := self.send_signal(get_uid(pod), number):
                await asyncio.wait(running, timeout=patience_s)
        return SyncResult(await self.get_pod_status(pod, context))

    def send_signal(self, uid, number):
        _, runs = self.pods.get(uid, (None, {}))
        running = [(process, watcher) for process, _, watcher in runs.values() if not watcher.done()]
        for process, _ in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        return [watcher for _, watcher in running]

    async def cleanup_pod(self, pod_uid):
        _, runs = self.pods.pop(pod_uid, (None, {}))
        for name in runs:
            self.log_path(pod_uid, name).unlink(missing_ok=True)

    async def list_pods(self):
        return [ProviderPod(pod, running=bool(self.send_signal(uid, 0))) for uid, (pod, _) in self.pods.items()]

    async def get_pod_status(self, pod, context):
        _, runs = self.pods.get(get_uid(pod), (pod, None))
        if runs is None:
            return None
        statuses = [describe(container, runs.get(container["name"])) for container in pod["spec"]["containers"]]
        ends = [status["state"].get("terminated") for status in statuses]
        phase = "Running" if not all(ends) else "Failed" if any(end["exitCode"] for end in ends) else "Succeeded"
        return {"phase": phase, "containerStatuses": statuses}

    def log_path(self, uid, container):
        return self.log_dir / f"{uid}_{container}.log"

    async def container_logs(self, pod, container, options):
        if not (path := self.log_path(get_uid(pod), container)).exists():
            raise NotFoundError(f"container {container} of pod {pod['metadata']['name']} has no log here")
        yield await asyncio.to_thread(path.read_bytes)


def describe(container, run):
    status = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0, "ready": False}
    if run is None:
        return status | {"state": {"waiting": {"reason": "ContainerCreating"}}}
    process, started_at, watcher = run
    identity, start = {"containerID": f"local://{process.pid}"}, {"startedAt": format_time(started_at)}
    if not watcher.done():
        return status | identity | {"ready": True, "started": True, "state": {"running": start}}
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    end = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": format_time(watcher.result())}
    return status | identity | {"state": {"terminated": identity | start | end}}


class LocalFactory(ProviderFactory):
    description = "processes on this machine (an example)"

    def create(self, options):
        return LocalProcesses(options.root_dir / "logs")
