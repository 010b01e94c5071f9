"""The figure of paired differences: what is drawn is what the table holds."""

import numpy as np
import pandas as pd
import pytest

from hybrid.figures.effects import effect_intervals
from hybrid.statistics.intervals import interval


def pairs(values):
    return pd.DataFrame({"difference": values, "mixer": "gla", "full": "1 of 6"})


def test_mean_interval_points_and_margin_are_drawn():
    values = [0.01, -0.02, 0.04]
    figure = effect_intervals(pairs(values), "difference", "mixer", "full", margin=0.05, xlabel="bits")
    (ax,) = figure.axes
    mean, low, high = interval(values)
    (bar,) = ax.containers
    assert bar[0].get_xdata() == pytest.approx(mean)
    assert bar[2][0].get_segments()[0][:, 0] == pytest.approx([low, high])
    assert any(np.array_equal(line.get_xdata(), values) for line in ax.lines)
    assert "n = 3" in figure.legends[0].get_title().get_text()
    assert any("0.05" in text.get_text() for text in figure.legends[0].get_texts())


def test_one_pair_has_no_interval():
    figure = effect_intervals(pairs([0.01]), "difference", "mixer", "full", margin=0.05, xlabel="bits")
    (bar,) = figure.axes[0].containers
    assert not bar[2]


@pytest.mark.parametrize(
    ("frame", "margin", "message"),
    [
        (pairs([0.1]), 0, "margin must be positive; got 0"),
        (pairs([0.1]).drop(columns="mixer"), 0.1, "no column 'mixer'"),
        (pairs([]), 0.1, "the table is empty"),
    ],
)
def test_wrong_input_is_named(frame, margin, message):
    with pytest.raises(ValueError, match=message):
        effect_intervals(frame, "difference", "mixer", "full", margin=margin, xlabel="bits")
