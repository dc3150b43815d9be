"""The pool of threads for short calls: bounded, reused, and left behind when it is shut down."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from vkprovider.backends.docker.threads import CallThreads


@pytest.fixture
def pool() -> Iterator[CallThreads]:
    pool = CallThreads(3, name="test")
    yield pool
    pool.shutdown(cancel_futures=True)


def test_results_and_errors_come_back(pool):
    assert pool.submit(lambda a, b: a + b, 1, b=2).result(5) == 3
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(5)


def test_calls_run_in_parallel_up_to_the_size(pool):
    together = threading.Barrier(3)
    futures = [pool.submit(together.wait, 5) for _ in range(3)]
    assert sorted(future.result(5) for future in futures) == [0, 1, 2]
    running, most, lock = 0, 0, threading.Lock()

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    for future in [pool.submit(work) for _ in range(20)]:
        future.result(5)
    assert most <= 3


def test_a_free_thread_is_used_again(pool):
    names = set()
    for _ in range(5):
        names.add(pool.submit(lambda: threading.current_thread().name).result(5))
        time.sleep(0.02)
    assert len(names) == 1


def test_shut_down_cancels_what_has_not_begun_and_takes_no_more(pool):
    begun, end = threading.Semaphore(0), threading.Event()

    def work():
        begun.release()
        return end.wait(5)

    busy = [pool.submit(work) for _ in range(3)]
    for _ in busy:
        assert begun.acquire(timeout=5)
    late = pool.submit(work)
    pool.shutdown(cancel_futures=True)
    assert late.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(work)
    end.set()
    assert all(future.result(5) for future in busy)


def test_a_call_that_hangs_does_not_hold_up_the_end_of_the_process():
    script = (
        "import time; from vkprovider.backends.docker.threads import CallThreads\n"
        "pool = CallThreads(1, name='x'); pool.submit(time.sleep, 600); time.sleep(0.1); pool.shutdown()"
    )
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert time.monotonic() - begun < 30
