"""Methods compared: marks, intervals and dots stand where the values say, in the row of their name."""

import pandas as pd
import pytest

from hybrid.figures.compared import LEVELS, compared
from hybrid.statistics.intervals import interval

VALUES = {"one": [0.9, 0.95, 1.0], "other": [0.2, 0.4, 0.3]}


def frame(values=VALUES, levels=("near",), panels=("K = 1",)):
    return pd.DataFrame(
        [
            {"panel": panel, "name": name, "level": level, "x": value / (1 + i)}
            for panel in panels
            for name, some in values.items()
            for i, level in enumerate(levels)
            for value in some
        ]
    )


def bars(ax):
    """Label, row, mean and interval of each mark."""
    for container in ax.containers:
        line, _, (stems,) = container if container[2] else (*container[:2], (None,))
        ends = None if stems is None else [float(x) for x in stems.get_segments()[0][:, 0]]
        yield container.get_label(), float(line.get_ydata()[0]), float(line.get_xdata()[0]), ends


def test_each_mark_stands_in_its_row_with_its_interval_and_its_values():
    figure = compared(frame(), "x", xlabel="Accuracy", bounds=(0, 1))
    (ax,) = figure.axes
    for (_, y, mean, ends), (row, values) in zip(bars(ax), enumerate(VALUES.values()), strict=True):
        expected = interval(values, bounds=(0, 1))
        assert (y, mean) == (row, pytest.approx(expected[0]))
        assert ends == pytest.approx(expected[1:])
    assert next(bars(ax))[3][1] == 1
    dots = [list(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 3]
    assert dots == list(VALUES.values())
    assert figure.legends[0].get_title().get_text() == "mean, 95 % interval, n = 3"


def test_levels_lie_in_order_within_the_row_and_are_named_once():
    figure = compared(frame(levels=("near", "far"), panels=("a", "b")), "x", xlabel="x", level="level")
    for ax in figure.axes:
        rows = {}
        for label, y, _, _ in bars(ax):
            rows.setdefault(round(y), []).append((y, label))
        assert set(rows) == {0, 1}
        assert all([label for _, label in sorted(row)] == ["near", "far"] for row in rows.values())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["near", "far"]


def test_the_reference_is_a_line_through_its_mean():
    (ax,) = compared(frame(), "x", xlabel="x", reference="other").axes
    (line,) = [line for line in ax.lines if list(line.get_ydata()) == [0, 1] and line.get_xdata()[0] != 0]
    assert line.get_xdata() == pytest.approx([0.3, 0.3]) and line.get_color() == LEVELS[0][0]


@pytest.mark.parametrize(
    ("count", "words"), [(1, "one value a marker"), (2, "mean, n = 2"), (6, "mean, 95 % interval, n = 6")]
)
def test_what_is_drawn_is_said(count, words):
    figure = compared(frame({"one": [0.1 * i for i in range(count)]}), "x", xlabel="x")
    (ax,) = figure.axes
    assert figure.legends[0].get_title().get_text() == words
    assert (next(bars(ax))[3] is not None) == (count >= 3)
    assert sum(len(line.get_xdata()) == count > 1 for line in ax.lines if line.get_marker() == "o") == (
        1 if 1 < count < 5 else 0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "third"}, "no row 'third'; there are: one, other"),
        ({"level": "x"}, "column 'x' has 6 values; allowed: at most 4"),
    ],
)
def test_wrong_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        compared(frame(), "x", xlabel="x", **change)
    with pytest.raises(ValueError, match="no column 'name'"):
        compared(frame().drop(columns="name"), "x", xlabel="x")
