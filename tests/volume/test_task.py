"""Tasks are answered in order, wait for what is not there, and share what is scarce."""

from __future__ import annotations

import pytest

from mirrorha.errors import InvariantViolation
from mirrorha.volume.disk import ListDirectory, Many, ReadAttributes
from mirrorha.volume.events import DiskCall, Lane, Send
from mirrorha.volume.tasks.task import Box, Call, CallAll, Pool, Receive, Steps, Take, Tasks


def calls(effects: object) -> list[DiskCall]:
    assert isinstance(effects, list)
    return [effect for effect in effects if isinstance(effect, DiskCall)]


def test_a_task_goes_on_with_the_answer() -> None:
    tasks = Tasks(Lane.TREE)
    seen: list[object] = []

    def steps() -> Steps[None]:
        yield Send("first")
        seen.append((yield Call(ReadAttributes(1))))
        yield Send("second")
        seen.append((yield Call(ReadAttributes(2), Lane.SYNC)))

    tasks.spawn(steps())
    effects = tasks.run()
    assert effects == [Send("first"), DiskCall(1, Lane.TREE, ReadAttributes(1))]
    assert tasks.run() == []
    tasks.finish(1, "one")
    assert tasks.run() == [Send("second"), DiskCall(2, Lane.SYNC, ReadAttributes(2))]
    tasks.finish(2, "two")
    assert tasks.run() == []
    assert seen == ["one", "two"]


def test_many_requests_are_one() -> None:
    tasks = Tasks(Lane.BULK)
    seen: list[object] = []

    def steps() -> Steps[None]:
        seen.append((yield CallAll([])))
        seen.append((yield CallAll([ReadAttributes(1), ListDirectory(2)])))

    tasks.spawn(steps())
    (call,) = calls(tasks.run())
    assert call.request == Many([ReadAttributes(1), ListDirectory(2)])
    assert seen == [[]]
    tasks.finish(call.token, ["one", "two"])
    tasks.run()
    assert seen == [[], ["one", "two"]]


def test_an_answer_to_nothing_is_a_bug() -> None:
    with pytest.raises(InvariantViolation):
        Tasks(Lane.TREE).finish(1, None)


def test_tasks_wait_apart_from_each_other() -> None:
    tasks = Tasks(Lane.TREE)
    seen: list[object] = []

    def steps(fid: int) -> Steps[None]:
        seen.append((fid, (yield Call(ReadAttributes(fid)))))

    for fid in (1, 2, 3):
        tasks.spawn(steps(fid))
    tokens = [call.token for call in calls(tasks.run())]
    assert tasks.is_calling
    for token in reversed(tokens):
        tasks.finish(token, token)
        tasks.run()
    assert seen == [(3, 3), (2, 2), (1, 1)]
    assert not tasks.is_calling


def test_a_box_keeps_what_nobody_waits_for() -> None:
    tasks = Tasks(Lane.TREE)
    box: Box[int] = Box(tasks)
    seen: list[int] = []

    def steps() -> Steps[None]:
        while True:
            seen.append((yield Receive(box)))

    box.put(1)
    box.put(2)
    assert len(box) == 2
    tasks.spawn(steps())
    tasks.run()
    box.put(3)
    assert seen == [1, 2]
    tasks.run()
    assert seen == [1, 2, 3]


def test_two_things_put_in_before_the_task_runs_are_both_received() -> None:
    tasks = Tasks(Lane.TREE)
    box: Box[int] = Box(tasks)
    seen: list[int] = []

    def steps() -> Steps[None]:
        while True:
            seen.append((yield Receive(box)))

    tasks.spawn(steps())
    tasks.run()
    box.put(1)
    box.put(2)
    tasks.run()
    assert seen == [1, 2]


def test_a_box_has_one_receiver() -> None:
    tasks = Tasks(Lane.TREE)
    box: Box[int] = Box(tasks)

    def steps() -> Steps[None]:
        yield Receive(box)

    tasks.spawn(steps())
    tasks.spawn(steps())
    with pytest.raises(InvariantViolation):
        tasks.run()


def takers(tasks: Tasks, pool: Pool, *amounts: int) -> list[int]:
    served: list[int] = []

    def steps(amount: int) -> Steps[None]:
        yield Take(pool, amount)
        served.append(amount)

    for amount in amounts:
        tasks.spawn(steps(amount))
    tasks.run()
    return served


def test_a_pool_is_served_in_order() -> None:
    tasks = Tasks(Lane.TREE)
    pool = Pool(tasks, 10)
    served = takers(tasks, pool, 6, 7, 1)
    # There is room for the last one, but its turn has not come.
    assert served == [6]
    assert pool.taken == 6
    pool.put(6)
    tasks.run()
    assert served == [6, 7, 1]
    assert pool.taken == 8


def test_more_than_all_is_all() -> None:
    tasks = Tasks(Lane.TREE)
    pool = Pool(tasks, 10)
    served = takers(tasks, pool, 1, 99)
    assert served == [1]
    pool.put(1)
    tasks.run()
    assert served == [1, 99]
    assert pool.taken == 10
    pool.put(99)
    assert pool.taken == 0


def test_nothing_is_given_back_twice() -> None:
    tasks = Tasks(Lane.TREE)
    pool = Pool(tasks, 10)
    takers(tasks, pool, 3)
    with pytest.raises(InvariantViolation):
        pool.put(4)


def test_a_pool_that_grows_serves_who_waits() -> None:
    tasks = Tasks(Lane.TREE)
    pool = Pool(tasks, 2)
    served = takers(tasks, pool, 2, 2)
    pool.resize(4)
    tasks.run()
    assert served == [2, 2]
    pool.resize(1)
    assert (pool.capacity, pool.taken) == (1, 4)


def test_what_fails_in_a_task_leaves_run() -> None:
    tasks = Tasks(Lane.TREE)

    def steps() -> Steps[None]:
        yield Call(ReadAttributes(1))
        raise KeyError("told you")

    tasks.spawn(steps())
    (call,) = calls(tasks.run())
    tasks.finish(call.token, None)
    with pytest.raises(KeyError, match="told you"):
        tasks.run()
