"""Chosen sets stand where they are said to, above the ranking they are taken from."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.figures.places import places

SHARES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=5)


def table(panels, seeds):
    """Five sets, better ones with a higher value, for each panel and seed; rows in no order."""
    rows = [
        {"panel": panel, "seed": seed, "better": better, "value": 1 - better + seed}
        for panel in panels
        for seed in range(seeds)
        for better in (0.5, 0.0, 1.0, 0.25, 0.75)
    ]
    return pd.DataFrame(rows)


def lines(ax, label):
    return [line for line in ax.lines if line.get_label().startswith(label)]


@settings(max_examples=10, deadline=None)
@given(SHARES, SHARES)
def test_every_chosen_set_and_every_mean_is_drawn(first, second):
    seeds = max(len(first), len(second))
    chosen = pd.DataFrame(
        [
            {"panel": "K = 1", "name": name, "seed": seed, "better": better}
            for name, values in (("one", first), ("other", second))
            for seed, better in enumerate(values)
        ]
    )
    figure = places(table(["K = 1"], seeds), chosen, ylabel="Recall")
    above, below = figure.axes
    assert len(lines(above, "all sets")) == seeds
    for seed, line in enumerate(lines(above, "all sets")):
        assert list(line.get_xdata()) == [0, 0.25, 0.5, 0.75, 1]
        assert line.get_ydata() == pytest.approx(1 - line.get_xdata() + seed)
    rings = lines(below, "chosen")
    assert [list(ring.get_xdata()) for ring in rings] == [first, second]
    assert [set(ring.get_ydata()) for ring in rings] == [{0}, {1}]
    assert [tick.get_text() for tick in below.get_yticklabels()] == ["one", "other"]
    means = [float(c.lines[0].get_xdata()[0]) for c in below.containers]
    expected = [np.mean(values) for values in (first, second) if len(values) >= 3]
    assert means == pytest.approx(expected)
    assert len(means) == sum(len(values) >= 3 for values in (first, second))


def test_panels_share_their_rows_and_a_method_may_be_missing_from_one():
    chosen = pd.DataFrame(
        {
            "panel": ["K = 1", "K = 2", "K = 2"],
            "name": ["one", "one", "two"],
            "seed": 0,
            "better": [0, 1, 0.5],
        }
    )
    figure = places(table(["K = 1", "K = 2"], 1), chosen, ylabel="Recall")
    left, right = figure.axes[2:]
    assert [list(line.get_xdata()) for line in lines(left, "chosen")] == [[0]]
    assert [list(line.get_ydata()) for line in lines(right, "chosen")] == [[0], [1]]
    assert [ax.get_title() for ax in figure.axes[:2]] == ["K = 1", "K = 2"]
    figure.canvas.draw()
    assert not [c for ax in (left, right) for c in ax.containers]


def test_wrong_tables_are_refused():
    sets, chosen = table(["K = 1"], 1), {"panel": ["K = 3"], "name": ["one"], "seed": [0], "better": [0.5]}
    with pytest.raises(ValueError, match=r"no sets of panel 'K = 3'; there are: K = 1"):
        places(sets, pd.DataFrame(chosen), ylabel="Recall")
    with pytest.raises(ValueError, match="value"):
        places(sets.drop(columns="value"), pd.DataFrame(chosen), ylabel="Recall")
    with pytest.raises(ValueError, match="better"):
        places(sets, pd.DataFrame(chosen).drop(columns="better"), ylabel="Recall")
