"""Tasks with an owner."""

import asyncio
import logging

import pytest

from vkprovider.aio.tasks import TaskPool, cancel_and_wait, finish, run_forever

pytestmark = pytest.mark.looptime


def now():
    return asyncio.get_running_loop().time()


async def forever():
    await asyncio.get_running_loop().create_future()


async def slow_to_end(seconds):
    try:
        await forever()
    finally:
        await asyncio.sleep(seconds)


async def fails_when_cancelled():
    try:
        await forever()
    except asyncio.CancelledError:
        raise RuntimeError("not so") from None


# -- cancel_and_wait


async def test_cancelled_tasks_have_ended_when_it_returns():
    tasks = [asyncio.create_task(slow_to_end(seconds)) for seconds in (1, 3)]
    await asyncio.sleep(0)
    await cancel_and_wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, True]
    assert now() == 3


async def test_failures_of_cancelled_tasks_are_logged_not_raised(caplog):
    task = asyncio.create_task(fails_when_cancelled(), name="stubborn")
    await asyncio.sleep(0)
    await cancel_and_wait([task])
    (record,) = caplog.records
    assert (record.levelno, record.task) == (logging.WARNING, "stubborn")


async def test_caller_does_not_cancel_itself():
    await cancel_and_wait([asyncio.current_task()])
    await cancel_and_wait([])


async def test_ended_tasks_are_no_matter():
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await cancel_and_wait([task])
    assert not task.cancelled()


# -- finish


async def test_cleanup_gives_its_result():
    assert await finish(asyncio.sleep(5, "done"), timeout_s=10) == "done"
    assert now() == 5


async def test_cleanup_goes_on_when_the_caller_is_cancelled():
    ended = []

    async def cleanup():
        await asyncio.sleep(5)
        ended.append(now())

    caller = asyncio.create_task(finish(cleanup(), timeout_s=10))
    await asyncio.sleep(1)
    caller.cancel()
    await asyncio.sleep(1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == [5]


async def test_cleanup_that_takes_too_long_is_cancelled(caplog):
    assert await finish(forever(), timeout_s=3, name="cleanup") is None
    assert now() == 3
    assert "ran out of time" in caplog.text


async def test_time_runs_out_for_a_cancelled_caller_too():
    caller = asyncio.create_task(finish(forever(), timeout_s=3))
    await asyncio.sleep(1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert now() == 3


async def test_failure_of_cleanup_is_raised():
    async def cleanup():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await finish(cleanup(), timeout_s=3)


async def test_failure_of_cleanup_is_logged_for_a_cancelled_caller(caplog):
    async def cleanup():
        await asyncio.sleep(2)
        raise RuntimeError("broken")

    caller = asyncio.create_task(finish(cleanup(), timeout_s=10))
    await asyncio.sleep(1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert "Cleanup failed" in caplog.text


# -- TaskPool


async def test_pool_names_and_forgets_its_tasks():
    pool = TaskPool("pool")
    task = pool.spawn(asyncio.sleep(1, "x"), name="one")
    assert (task.get_name(), len(pool)) == ("pool:one", 1)
    assert await task == "x"
    await asyncio.sleep(0)
    assert len(pool) == 0


async def test_failure_is_logged_and_leaves_others(caplog):
    async def fail():
        raise RuntimeError("broken")

    pool = TaskPool("pool")
    other = pool.spawn(asyncio.sleep(5), name="other")
    pool.spawn(fail(), name="bad")
    await asyncio.sleep(1)
    assert not other.done()
    (record,) = caplog.records
    assert (record.levelno, record.task) == (logging.ERROR, "pool:bad")
    await pool.join()
    assert now() == 5


async def test_closing_ends_everything_also_what_starts_meanwhile():
    pool = TaskPool("pool")

    async def respawns():
        try:
            await forever()
        finally:
            pool.spawn(forever(), name="late")

    pool.spawn(slow_to_end(3), name="slow")
    pool.spawn(respawns(), name="respawns")
    await asyncio.sleep(0)
    await pool.aclose()
    assert (len(pool), now()) == (0, 3)
    await pool.aclose()


async def test_task_of_the_pool_may_close_it():
    pool = TaskPool("pool")
    other = pool.spawn(forever(), name="other")
    closer = pool.spawn(pool.aclose(), name="closer")
    await closer
    assert other.cancelled()


async def test_join_waits_for_all():
    pool = TaskPool("pool")
    for seconds in (1, 4):
        pool.spawn(asyncio.sleep(seconds), name=str(seconds))
    await pool.join()
    assert (len(pool), now()) == (0, 4)


# -- run_forever


async def test_steps_follow_at_once_and_failures_after_growing_pauses(caplog):
    times, outcomes = [], iter("ffffs")

    async def step():
        times.append(now())
        match next(outcomes, "wait"):
            case "f":
                raise RuntimeError("broken")
            case "wait":
                await forever()

    task = asyncio.create_task(run_forever(step, name="loop", retry_after_s=1, max_retry_after_s=3))
    await asyncio.sleep(100)
    assert times == [0, 1, 3, 6, 9, 9]
    assert [record.retry_after_s for record in caplog.records] == [1, 2, 3, 3]
    await cancel_and_wait([task])
    assert task.cancelled()


async def test_pause_starts_anew_after_success():
    times, outcomes = [], iter("ffsff")

    async def step():
        times.append(now())
        match next(outcomes, "wait"):
            case "f":
                raise RuntimeError("broken")
            case "wait":
                await forever()

    task = asyncio.create_task(run_forever(step, name="loop", retry_after_s=1))
    await asyncio.sleep(100)
    assert times == [0, 1, 3, 3, 4, 6]
    await cancel_and_wait([task])
