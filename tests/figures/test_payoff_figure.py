"""Cost and gain: a mark stands at its mean cost and gain, and what costs nothing left of all that does."""

import pandas as pd
import pytest

from hybrid.figures.payoff import payoff
from hybrid.statistics.intervals import interval

TABLE = pd.DataFrame(
    {
        "name": ["even"] * 3 + ["drawn"] * 3 + ["learnt"] * 3,
        "tokens": [0] * 6 + [900, 1000, 1100],
        "seconds": [1e-4] * 3 + [2e-4] * 3 + [50.0] * 3,
        "gain": [0.0, 0.1, -0.1, 0.0, 0.02, 0.04, 0.3, 0.2, 0.4],
    }
)
COSTS = {"tokens": "Tokens", "seconds": "Seconds"}


def test_marks_stand_at_their_means():
    figure = payoff(TABLE, COSTS, "gain", ylabel="Gain")
    tokens, seconds = figure.axes
    at = {c.get_label(): (c[0].get_xdata()[0], c[0].get_ydata()[0]) for c in tokens.containers}
    assert at["learnt"] == pytest.approx((1000, 0.3))
    assert at["even"][0] < at["drawn"][0] < 1000
    ends = {c.get_label(): c[2][0].get_segments()[0][:, 1] for c in seconds.containers}
    for name, rows in TABLE.groupby("name"):
        assert ends[name] == pytest.approx(interval(rows["gain"])[1:])
    assert {c[0].get_xdata()[0] for c in seconds.containers} == {1e-4, 2e-4, 50.0}
    assert figure.legends[0].get_title().get_text() == "mean, 95 % interval, n = 3"
    assert tokens.get_xlabel() == "Tokens" and tokens.get_xscale() == "log"


def test_nothing_has_a_tick_of_its_own():
    tokens, seconds = payoff(TABLE, COSTS, "gain", ylabel="Gain").axes
    ticks = list(tokens.get_xticks())
    assert tokens.xaxis.get_major_formatter()(ticks[0], 0) == "0"
    assert all(tokens.xaxis.get_major_formatter()(t, 0) == "$10^{3}$" for t in ticks[1:])
    assert "0" not in [seconds.xaxis.get_major_formatter()(t, 0) for t in seconds.get_xticks()]


def test_one_seed_has_no_interval_and_free_methods_alone_can_be_drawn():
    figure = payoff(TABLE.iloc[[0, 3]], {"tokens": "Tokens"}, "gain", ylabel="Gain")
    (ax,) = figure.axes
    assert not any(container[2] for container in ax.containers)
    assert figure.legends[0].get_title().get_text() == "one value a marker"


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="a cost is at least 0; got -1 in 'tokens'"):
        payoff(TABLE.assign(tokens=-1), COSTS, "gain", ylabel="Gain")
    with pytest.raises(ValueError, match="no column 'hours'"):
        payoff(TABLE, {"hours": "Hours"}, "gain", ylabel="Gain")
