"""The audit's figure: every row is drawn once, on the side of the band where it lies."""

import pandas as pd
import pytest

from hybrid.figures.audit import difference_strips


def drawn(figure, marker):
    (ax,) = figure.axes
    return sorted(x for line in ax.lines if line.get_marker() == marker for x in line.get_xdata())


def test_every_row_is_drawn_once_and_the_band_decides_its_mark():
    frame = pd.DataFrame({"off": [-0.5, 0.0, 0.5, 0.51, -40.0], "table": ["a", "a", "b", "b", "b"]})
    figure = difference_strips(frame, "off", "table", band=0.5, xlabel="off")
    assert drawn(figure, "o") == [-0.5, 0.0, 0.5]
    assert drawn(figure, "X") == [-40.0, 0.51]
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    low, high = ax.get_xlim()
    assert low < -40 and high > 0.51


@pytest.mark.parametrize(
    ("rows", "band", "message"),
    [
        ({"off": [1.0], "table": ["a"]}, 0, "band must be positive; got 0"),
        ({"off": [1.0]}, 1, "no column 'table'"),
        ({"off": [], "table": []}, 1, "the table is empty"),
    ],
)
def test_wrong_input_is_named(rows, band, message):
    with pytest.raises(ValueError, match=message):
        difference_strips(pd.DataFrame(rows), "off", "table", band=band, xlabel="off")
