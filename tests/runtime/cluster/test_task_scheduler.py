"""The scheduler of tasks, with workers that exist only in simulated time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from cloven.runtime.cluster.task_scheduler import TakenTask, TaskScheduler

TILES = 6
TILED: Sequence[frozenset[int]] = [*[frozenset[int]()] * TILES, frozenset(range(TILES))]
"""Six tiles, and the rest of the model after them."""


@st.composite
def graphs(draw: st.DrawFn) -> Sequence[frozenset[int]]:
    """Draw the needs of up to 8 tasks, each of earlier ones."""
    count = draw(st.integers(1, 8))
    return [frozenset(draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else ()) for i in range(count)]


Log = list[tuple[float, TakenTask]]
"""The finished tasks, each with its time."""


def simulated(
    scheduler: TaskScheduler, seconds: Mapping[str, float], images: int, lost: Mapping[str, float] | None = None
) -> Log:
    """Run images on workers that take this long for a task; ``lost`` says when a worker is lost for good.

    A worker computes its tasks in the order in which it got them.
    """
    gone_at = dict(lost or {})
    queues: dict[str, list[TakenTask]] = {worker: [] for worker in seconds}
    ends: dict[str, float] = {}
    log: Log = []
    for image in range(images):
        scheduler.begin(image)
    now, left = 0.0, set(range(images))
    while left:
        for one in scheduler.due([worker for worker in seconds if gone_at.get(worker, now + 1) > now]):
            queues[one.worker].append(one)
        for worker, queue in queues.items():
            if queue and worker not in ends:
                ends[worker] = now + seconds[worker]
        assert ends, "no worker has a task, but images are left"
        worker = min(ends, key=lambda name: (min(ends[name], gone_at.get(name, ends[name])), name))
        now = min(ends.pop(worker), gone_at.get(worker, float("inf")))
        if gone_at.get(worker, now + 1) <= now:
            for one in queues[worker]:
                scheduler.give_up(one)
            queues[worker].clear()
            continue
        done = queues[worker].pop(0)
        assert scheduler.finish(done)
        log.append((now, done))
        if scheduler.is_finished(done.image):
            scheduler.end(done.image)
            left.remove(done.image)
    return log


@given(graphs(), st.lists(st.sampled_from([1.0, 2.0, 7.0]), min_size=1, max_size=4), st.integers(1, 4), st.data())
def test_each_task_is_finished_once_and_after_those_that_it_needs(
    needs: Sequence[frozenset[int]], seconds: Sequence[float], images: int, data: st.DataObject
) -> None:
    workers = {f"edge{i}": duration for i, duration in enumerate(seconds)}
    mortal = list(workers)[1:]  # one is never lost
    lost = data.draw(st.dictionaries(st.sampled_from(mortal), st.floats(0, 20))) if mortal else {}

    log = simulated(TaskScheduler(needs), workers, images, lost)

    tasks = [(done.image, done.task) for _, done in log]
    assert sorted(tasks) == [(image, task) for image in range(images) for task in range(len(needs))]
    for place, (image, task) in enumerate(tasks):
        assert {(image, needed) for needed in needs[task]} <= set(tasks[:place])
    for at, done in log:
        assert at <= lost.get(done.worker, at)


def test_a_fast_worker_takes_more_tiles_than_a_slow_one() -> None:
    log = simulated(TaskScheduler(TILED), {"slow": 4.0, "fast": 1.0}, images=6)

    taken = {name: sum(done.worker == name for _, done in log) for name in ("slow", "fast")}
    assert taken["fast"] >= 3 * taken["slow"]
    equal = max(4.0 * TILES / 2, 1.0 * TILES / 2) * 6
    assert log[-1][0] < equal / 1.5


def test_a_worker_has_a_second_task_while_it_computes_and_no_third() -> None:
    given = TaskScheduler(TILED).due(["edge0", "edge1"])
    assert not given

    scheduler = TaskScheduler(TILED)
    scheduler.begin(0)
    assert [(one.task, one.worker) for one in scheduler.due(["edge0", "edge1"])] == [
        (0, "edge0"), (1, "edge1"), (2, "edge0"), (3, "edge1"),
    ]  # fmt: skip
    assert not scheduler.due(["edge0", "edge1"])


def test_the_oldest_image_goes_first() -> None:
    scheduler = TaskScheduler(TILED, outstanding=1)
    scheduler.begin(0)
    scheduler.begin(1)
    order = []
    for _ in range(2 * len(TILED)):
        (one,) = scheduler.due(["edge0"])
        order.append(one.image)
        scheduler.finish(one)

    assert order == sorted(order)


def test_a_result_after_the_loss_of_its_worker_does_not_count() -> None:
    scheduler = TaskScheduler([()], outstanding=1)
    scheduler.begin(0)
    (lost,) = scheduler.due(["edge0"])
    scheduler.give_up(lost)
    (again,) = scheduler.due(["edge1"])

    assert not scheduler.finish(lost)
    assert not scheduler.is_finished(0)
    assert scheduler.finish(again)
    assert scheduler.is_finished(0)


def test_an_image_that_is_given_up_frees_its_workers() -> None:
    scheduler = TaskScheduler(TILED)
    scheduler.begin(0)
    (first, *_) = scheduler.due(["edge0"])
    scheduler.end(0)

    assert not scheduler.finish(first)
    assert not scheduler.due(["edge0"])
    scheduler.begin(1)
    assert {one.image for one in scheduler.due(["edge0"])} == {1}
