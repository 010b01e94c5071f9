"""Dots of measured times: each at its place, the first candidate apart, missing ones left out."""

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from hybrid.figures.timings import OURS, timings

ROWS = pd.DataFrame(
    [
        ("scan", "ours", "T = 64", 2.0, 0.1),
        ("scan", "theirs", "T = 64", 8.0, 0.2),
        ("outer", "ours", "T = 64", 3.0, 0.0),
        ("outer", "theirs", "T = 64", None, None),
        ("scan", "ours", "T = 256", 7.0, 0.1),
    ],
    columns=["kernel", "who", "panel", "ms", "spread"],
)


def points(ax):
    return {
        (line.get_label() if hasattr(line, "get_label") else "", *point)
        for container in ax.containers
        for line in [container]
        for point in zip(*container.lines[0].get_data(), strict=True)
    }


def test_every_time_is_drawn_in_its_row_and_panel():
    short, long = timings(ROWS, "kernel", "who", "panel").axes
    assert points(short) == {("ours", 2.0, 0), ("theirs", 8.0, 0), ("ours", 3.0, 1)}
    assert points(long) == {("ours", 7.0, 0)}
    assert [tick.get_text() for tick in short.get_yticklabels()] == ["scan", "outer"]
    assert short.get_xscale() == "log" and long.get_title() == "T = 256"
    assert short.yaxis_inverted()


def test_bars_are_the_interquartile_range():
    short, _ = timings(ROWS, "kernel", "who", "panel").axes
    theirs = next(c for c in short.containers if c.get_label() == "theirs")
    (segment,) = theirs.lines[2][0].get_segments()
    assert segment[:, 0] == pytest.approx([8 - 0.8, 8 + 0.8])


def test_colour_is_not_all_that_tells_candidates_apart():
    figure = timings(ROWS, "kernel", "who", "panel")
    lines = [c.lines[0] for c in figure.axes[0].containers]
    assert len({line.get_marker() for line in lines}) == len(lines) == 2
    assert to_hex(lines[0].get_color()) == OURS[0]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours", "theirs"]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="positive times; got 0"):
        timings(ROWS.assign(ms=0.0), "kernel", "who", "panel")
    with pytest.raises(ValueError, match="spread"):
        timings(ROWS.drop(columns="spread"), "kernel", "who", "panel")
