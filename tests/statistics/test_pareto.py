"""Pareto fronts against the definition read aloud, and their shares over seeds against what must hold."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from scipy import stats

from hybrid.config import MIXERS
from hybrid.figures import MIXER_STYLE
from hybrid.figures.pareto import fronts
from hybrid.statistics.pareto import front_share, pareto_front

few = st.sampled_from([0.0, 1.0, 2.0, -1.5, float("nan"), float("inf"), float("-inf")])
directions = st.lists(st.sampled_from(["high", "low"]), min_size=1, max_size=3)


@st.composite
def problems(draw, value=few):
    better = draw(directions)
    row = st.lists(value, min_size=len(better), max_size=len(better))
    return draw(st.lists(row, min_size=1, max_size=9)), better


def by_definition(points, better):
    """On the front: comparable, and no comparable point is at least as good everywhere and better once."""

    def at_least(a, b, way):
        return a >= b if way == "high" else a <= b

    def dominates(a, b):
        everywhere = all(at_least(p, q, way) for p, q, way in zip(a, b, better, strict=True))
        return everywhere and any(p != q for p, q in zip(a, b, strict=True))

    comparable = [not any(v != v for v in p) for p in points]
    return [
        ok and not any(fine and dominates(q, p) for q, fine in zip(points, comparable, strict=True))
        for p, ok in zip(points, comparable, strict=True)
    ]


@settings(max_examples=300, deadline=None)
@given(problems())
def test_the_front_is_the_definition_ties_and_nan_included(problem):
    points, better = problem
    assert pareto_front(np.array(points), better).tolist() == by_definition(points, better)


@settings(max_examples=100, deadline=None)
@given(problems(st.floats(allow_nan=False, allow_infinity=False, width=16)), st.randoms())
def test_order_and_monotone_rescaling_do_not_matter(problem, random):
    points, better = problem
    on = pareto_front(np.array(points), better)
    order = random.sample(range(len(points)), len(points))
    assert pareto_front(np.array(points)[order], better).tolist() == on[order].tolist()
    assert pareto_front(2 * np.array(points), better).tolist() == on.tolist()
    flipped = ["low" if way == "high" else "high" for way in better]
    assert pareto_front(-np.array(points), flipped).tolist() == on.tolist()
    assert on.any()


def test_stacks_of_sets_are_solved_set_by_set():
    sets = np.random.default_rng(0).integers(0, 4, size=(3, 5, 7, 2)).astype(float)
    on = pareto_front(sets, ("high", "low"))
    assert on.shape == (3, 5, 7)
    assert on[2, 4].tolist() == by_definition(sets[2, 4].tolist(), ("high", "low"))


def test_equal_points_share_the_front_and_nan_never_counts():
    points = [[1, 1], [1, 1], [0, 2], [0, 1], [np.nan, 9]]
    assert pareto_front(points, ("high", "high")).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("points", "better", "named"),
    [
        ([[1, 2]], ("high",), r"\[\.\.\., N, 1\].*\(1, 2\)"),
        ([[1, 2]], ("high", "up"), "unknown direction 'up'; allowed: high, low"),
        ([[1, 2]], "high", r"unknown direction .h.; allowed: high, low, one an axis"),
        ([1, 2], ("high", "low"), r"got \(2,\)"),
    ],
)
def test_points_that_do_not_fit_their_directions_are_refused(points, better, named):
    with pytest.raises(ValueError, match=named):
        pareto_front(points, better)


def test_without_noise_a_share_is_the_front():
    points = np.random.default_rng(1).normal(size=(8, 2))
    same = np.stack([points] * 3)
    assert front_share(same, ("high", "low")).tolist() == pareto_front(points, ("high", "low")).tolist()


@pytest.mark.parametrize("n", [2, 3, 6])
def test_two_points_on_one_axis_are_students_t_test(n):
    rng = np.random.default_rng(n)
    samples = rng.normal(size=(n, 2, 1)) + np.array([[0.4], [0.0]])
    share = front_share(samples, ("high",), draws=40_000)
    expected = stats.ttest_rel(samples[:, 0, 0], samples[:, 1, 0], alternative="less").pvalue
    assert share == pytest.approx([expected, 1 - expected], abs=0.012)


def test_what_seeds_share_does_not_blur_an_order():
    common = np.array([0.0, 5.0, -3.0])[:, None, None]
    samples = common + np.array([[1.0], [0.9]])
    assert front_share(samples, ("high",)).tolist() == [1, 0]


def test_samples_that_cannot_be_drawn_from_are_refused():
    with pytest.raises(ValueError, match=r"R of at least 2; got \(1, 4, 2\)"):
        front_share(np.zeros((1, 4, 2)), ("high", "high"))
    with pytest.raises(ValueError, match="finite values; got nan"):
        front_share(np.full((2, 4, 2), np.nan), ("high", "high"))


def models(n=8):
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"mixer": [(*MIXERS, "full")[i % 7] for i in range(n)], "x": rng.random(n)})
    return frame.assign(y=rng.random(n), label=[f"model {i}" for i in range(n)], half=np.arange(n) % 2)


@pytest.mark.parametrize("better", [("high", "low"), ("low", "high"), ("high", "high"), ("low", "low")])
def test_filled_and_labelled_points_are_the_front(better):
    df = models(20)
    figure = fronts(df, "x", "y", better, xlabel="X", ylabel="Y", note="one run a point")
    (ax,) = figure.axes
    on = pareto_front(df[["x", "y"]].to_numpy(), better)
    assert sorted(text.get_text() for text in ax.texts) == sorted(df["label"][on])
    marked = [line for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    filled = [p for line in marked if to_rgb(line.get_mfc()) != (1, 1, 1) for p in line.get_xdata()]
    assert sorted(filled) == sorted(df["x"][on])
    assert sum(len(line.get_xdata()) for line in marked) == len(df)
    assert {look.label for name, look in MIXER_STYLE.items() if name in set(df["mixer"])} == {
        text.get_text() for text in figure.legends[0].get_texts()
    }


@pytest.mark.parametrize("better", [("high", "low"), ("low", "high"), ("high", "high"), ("low", "low")])
def test_the_staircase_bounds_what_the_front_dominates(better):
    df = models(20)
    (ax,) = fronts(df, "x", "y", better, xlabel="X", ylabel="Y").axes
    stair = ax.lines[0]
    front = list(zip(stair.get_xdata(), stair.get_ydata(), strict=True))
    for a, b in pairwise(front):
        assert a[0] < b[0]
        corner = (a[0], b[1]) if stair.get_drawstyle() == "steps-pre" else (b[0], a[1])
        assert not pareto_front([corner, a], better)[0] and not pareto_front([corner, b], better)[0]


def test_each_panel_has_its_own_front_and_what_was_not_measured_is_left_out():
    df = models(12)
    df.loc[0, "y"] = np.nan
    figure = fronts(df, "x", "y", ("high", "low"), xlabel="", ylabel="", panel="half", log=["y"])
    assert len(figure.axes) == 2 and {ax.get_yscale() for ax in figure.axes} == {"log"}
    for ax, half in zip(figure.axes, df.dropna()["half"].unique(), strict=True):
        rows = df[df["half"] == half].dropna()
        on = pareto_front(rows[["x", "y"]].to_numpy(), ("high", "low"))
        assert sorted(text.get_text() for text in ax.texts) == sorted(rows["label"][on])
    with pytest.raises(ValueError, match="'label'"):
        fronts(df.drop(columns="label"), "x", "y", ("high", "low"), xlabel="", ylabel="")
    with pytest.raises(ValueError, match="empty"):
        fronts(df.assign(y=np.nan), "x", "y", ("high", "low"), xlabel="", ylabel="")
