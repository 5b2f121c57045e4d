"""The simulation of activities, against what can be computed by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.cost.timeline import Activity, Timeline, Timing, busy, critical_path, steady_rate


def simulate(activities: list[Activity]) -> list[Timing]:
    return Timeline(activities).timings()


def ends(*activities: Activity) -> list[float]:
    return [timing.end for timing in simulate(list(activities))]


def test_one_resource_does_one_thing_at_a_time() -> None:
    assert ends(Activity("a", "cpu", 2.0), Activity("b", "cpu", 3.0)) == [2.0, 5.0]


def test_two_resources_work_side_by_side() -> None:
    assert ends(Activity("a", "one", 2.0), Activity("b", "other", 3.0)) == [2.0, 3.0]


def test_an_activity_waits_for_others_and_for_their_delay() -> None:
    a, b = Activity("a", "cpu", 2.0, lag=0.5), Activity("b", "link", 1.0, (0,))

    assert ends(a, b) == [2.0, 3.5]


def test_the_first_that_could_begin_is_served_first_and_messages_go_before_computations() -> None:
    opens = Activity("opens", "cpu", 1.0)
    computes = Activity("computes", "cpu", 5.0, (0,))
    sends = Activity("sends", "cpu", 1.0, (0,), urgent=True)

    assert ends(opens, computes, sends) == [1.0, 7.0, 2.0]


def test_a_pipeline_answers_at_the_pace_of_its_slowest_stage() -> None:
    stages = (("first", 1.0), ("second", 3.0), ("third", 2.0))
    activities = []
    for image in range(20):
        for number, (stage, seconds) in enumerate(stages):
            after = (3 * image + number - 1,) if number else ()
            activities.append(Activity(stage, stage, seconds, after))

    answers = ends(*activities)[2::3]

    assert [later - sooner for sooner, later in pairwise(answers)] == [3.0] * 19


def test_the_critical_path_goes_through_what_was_waited_for() -> None:
    activities = [
        Activity("short", "one", 1.0),
        Activity("long", "other", 4.0),
        Activity("other work", "third", 6.0),
        Activity("joined", "third", 1.0, (0, 1)),
    ]

    timings = simulate(activities)

    assert [activities[i].name for i in critical_path(timings, 3)] == ["other work", "joined"]
    assert [activities[i].name for i in critical_path(simulate(activities[:2]), 1)] == ["long"]


def test_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        simulate([Activity("a", "cpu", 1.0, (1,)), Activity("b", "cpu", 1.0, (0,))])


@st.composite
def schedules(draw: st.DrawFn) -> list[Activity]:
    found: list[Activity] = []
    for index in range(draw(st.integers(1, 12))):
        after = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        resource = draw(st.sampled_from(["a", "b", "c"]))
        found.append(Activity(str(index), resource, draw(st.integers(0, 5)), tuple(after), draw(st.integers(0, 2))))
    return found


@given(schedules(), st.integers(1, 5), st.integers(1, 3))
def test_several_images_are_like_their_activities_one_after_another(
    activities: list[Activity], images: int, window: int
) -> None:
    every = []
    for image in range(images):
        for activity in activities:
            after = tuple(before + image * len(activities) for before in activity.after)
            if not after and image >= window:
                after = ((image - window + 1) * len(activities) - 1,)
            every.append(activity._replace(after=after))

    timings = simulate(every)
    answers = timings[len(activities) - 1 :: len(activities)]
    assert Timeline(activities, images, window).timings() == timings
    assert times(Timeline(activities, images, window)) == [answer.end + activities[-1].lag for answer in answers]


def times(timeline: Timeline) -> list[float]:
    """Return the time of each image's answer."""
    found: list[float] = []
    for answered, now in timeline.answers():
        found += [now] * (answered - len(found))
    return found


@settings(max_examples=50)
@given(schedules(), st.integers(1, 9), st.integers(1, 3))
def test_the_steady_rate_is_that_of_a_long_simulation(activities: list[Activity], last: int, window: int) -> None:
    answer = Activity("answer", "a", last / 7, tuple(range(len(activities))))
    whole = times(Timeline([*activities, answer], 500 * window, window))

    rate = steady_rate([*activities, answer], window).rate

    assert rate == pytest.approx(400 * window / (whole[-1] - whole[100 * window - 1]), rel=0.005)


def test_the_steady_rate_of_one_device_is_one_over_its_time() -> None:
    activities = [Activity("a", "cpu", 0.1), Activity("b", "cpu", 0.2, (0,)), Activity("c", "cpu", 0.3, (1,))]

    for window in (1, 2, 8, 256):
        assert steady_rate(activities, window).rate == pytest.approx(1 / 0.6, rel=1e-9)


@pytest.mark.parametrize(("window", "seconds"), [(1, 6.5), (2, 3.25), (3, 3.0), (8, 3.0), (256, 3.0)])
def test_the_steady_rate_of_a_full_pipeline_is_that_of_its_slowest_stage(window: int, seconds: float) -> None:
    first, second = Activity("first", "one", 1.0), Activity("second", "two", 3.0, (0,), lag=0.5)
    third = Activity("third", "three", 2.0, (1,))

    assert steady_rate([first, second, third], window).rate == pytest.approx(1 / seconds, rel=1e-9)


def test_a_simulation_that_does_not_repeat_itself_gives_a_mean() -> None:
    activities = [
        Activity("a", "one", 1 / 3),
        Activity("b", "three", 0.302),
        Activity("c", "two", 0.4488, (0, 1)),
        Activity("d", "one", 0.28284, (1,)),
        Activity("e", "three", 0.34641, (0,)),
        Activity("f", "two", 0.2, (2, 3, 4)),
    ]

    assert steady_rate(activities, 1).repeats
    mean = steady_rate(activities, 8)

    assert not mean.repeats
    assert mean.images > 1000
    assert mean.rate == pytest.approx(1 / 0.6488, rel=0.01)  # the second device is nearly always busy


@given(schedules())
def test_nothing_begins_too_soon_or_overlaps_on_a_resource(activities: list[Activity]) -> None:
    timings = simulate(activities)

    for activity, timing in zip(activities, timings, strict=True):
        assert timing.end == timing.start + activity.seconds
        assert all(timing.start >= timings[before].end + activities[before].lag for before in activity.after)
    for resource in ("a", "b", "c"):
        mine = sorted((t.start, t.end) for a, t in zip(activities, timings, strict=True) if a.resource == resource)
        assert all(sooner[1] <= later[0] for sooner, later in pairwise(mine))
    assert all(max(t.end for t in timings) >= seconds for seconds in busy(activities).values())
