"""Backoff per key. Parity: client-go util/flowcontrol/backoff_test.go."""

from datetime import timedelta

import pytest

from vkprovider.aio.backoff import BackoffTable
from vkprovider.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def table(clock):
    return BackoffTable(clock, initial_s=10, max_s=300)


def test_unknown_key_may_be_tried_now(table, clock):
    assert (table.get("a"), table.remaining_s("a", clock.now()), table.remaining_since_update_s("a")) == (0, 0, 0)


def test_backoff_doubles_up_to_its_bound(table, clock):
    found = []
    for _ in range(8):
        table.step("a", clock.now())
        found.append(table.get("a"))
        clock.advance(found[-1])
    assert found == [10, 20, 40, 80, 160, 300, 300, 300]


def test_keys_are_apart(table, clock):
    table.step("a", clock.now())
    table.step("a", clock.now())
    table.step("b", clock.now())
    assert (table.get("a"), table.get("b")) == (20, 10)


def test_remaining_time_counts_from_the_event(table, clock):
    table.step("a", clock.now())
    failed_at = clock.now() - timedelta(seconds=4)
    assert table.remaining_s("a", failed_at) == 6
    clock.advance(3)
    assert table.remaining_s("a", failed_at) == 3
    assert table.remaining_since_update_s("a") == 7
    clock.advance(100)
    assert table.remaining_s("a", failed_at) == 0
    assert table.remaining_since_update_s("a") == 0


def test_backoff_starts_anew_after_a_quiet_time(table, clock):
    for _ in range(5):
        table.step("a", clock.now())
    clock.advance(600)
    table.step("a", clock.now())
    assert table.get("a") == 300, "exactly twice the bound is not yet quiet enough"
    clock.advance(600.5)
    assert table.remaining_s("a", clock.now()) == 0
    table.step("a", clock.now())
    assert table.get("a") == 10


def test_quiet_time_counts_to_the_event_not_to_now(table, clock):
    table.step("a", clock.now())
    failed_at = clock.now()
    clock.advance(1000)
    table.step("a", failed_at)
    assert table.get("a") == 20


def test_reset_forgets(table, clock):
    table.step("a", clock.now())
    table.reset("a")
    table.reset("a")
    assert table.get("a") == 0


def test_collect_forgets_what_is_long_quiet(table, clock):
    table.step("old", clock.now())
    clock.advance(400)
    table.step("new", clock.now())
    clock.advance(201)
    table.collect()
    assert (table.get("old"), table.get("new")) == (0, 10)


@pytest.mark.parametrize(("seeded_s", "found_s"), [(40, 40), (1, 10), (1000, 300)])
def test_seeded_backoff_lies_within_its_bounds(table, clock, seeded_s, found_s):
    table.seed("a", seeded_s)
    assert table.get("a") == found_s
    table.step("a", clock.now())
    assert table.get("a") == min(found_s * 2, 300)


def test_bound_below_the_start_bounds_the_start(clock):
    table = BackoffTable(clock, initial_s=10, max_s=2)
    table.step("a", clock.now())
    assert table.get("a") == 2
    table.seed("b", 5)
    assert table.get("b") == 2
