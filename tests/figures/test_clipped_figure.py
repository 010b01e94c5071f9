"""The figure of a clipped distribution: bars are counts, dots are differences of the function given."""

import numpy as np
import pytest

from hybrid.figures.clipped_distribution import AWAY, clipped_distribution

RNG = np.random.default_rng(0)
VALUES = np.clip(RNG.uniform(-0.5, 1.25, 4000), 0, 1)


def above(levels):
    return (1.25 - levels) / 1.75


def drawn(**changes):
    given = {"samples": {"a": VALUES}, "above": {"a": above}, "means": {"a": 0.45}, "bins": 7}
    return clipped_distribution(**(given | changes), xlabel="z")


def test_bars_are_the_counts_and_dots_what_is_computed():
    (ax,) = drawn().axes
    inside, ends = ax.containers
    counts = [((i / 7 < VALUES) & ((i + 1) / 7 >= VALUES) & (VALUES < 1)).mean() for i in range(7)]
    assert [bar.get_height() for bar in inside] == pytest.approx(counts)
    assert [bar.get_height() for bar in ends] == pytest.approx([(VALUES == 0).mean(), (VALUES == 1).mean()])
    assert [bar.get_x() + bar.get_width() / 2 for bar in ends] == pytest.approx([-AWAY, 1 + AWAY])
    dots, mean = ax.lines
    assert dots.get_ydata() == pytest.approx([0.5 / 1.75, *[1 / 7 / 1.75] * 7, 0.25 / 1.75], abs=1e-8)
    assert list(mean.get_xdata()) == [0.45, 0.45]
    total = sum(bar.get_height() for bar in [*inside, *ends])
    assert total == pytest.approx(1) and sum(dots.get_ydata()) == pytest.approx(1)


def test_masses_do_not_cover_a_bin():
    (ax,) = drawn().axes
    inside, ends = ax.containers
    assert ends[0].get_x() < 0 and ends[1].get_x() + ends[1].get_width() > 1
    assert all(bar.get_hatch() for bar in ends) and not any(bar.get_hatch() for bar in inside)


@pytest.mark.parametrize(
    ("samples", "message"),
    [({}, "no samples to draw"), ({"a": VALUES + 0.1}, r"samples lie between 0 and 1; got 1.1 of 'a'")],
)
def test_what_cannot_be_drawn_is_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        drawn(samples=samples)
