"""Tables of shares: every value is written where it belongs, and what is missing is crossed out."""

import numpy as np
import pandas as pd
import pytest

from hybrid.figures.share_cells import share_cells


def table(values, columns):
    return pd.DataFrame(values, index=["one", "other"], columns=columns)


def test_every_share_is_written_in_its_cell():
    first = table([[0, 0.25, 1], [np.nan, 0.333, 0.5]], [0, 1, 2])
    second = table([[1, 0, 0], [0, 1, 0]], [0, 1, 2])
    figure = share_cells({"K = 1": first, "K = 2": second}, label="Share", across=2)
    axes = figure.axes[:2]
    assert [ax.get_title() for ax in axes] == ["K = 1", "K = 2"]
    written = {(t.get_position()[0], t.get_position()[1]): t.get_text() for t in axes[0].texts}
    assert written == {
        (0.5, 0.5): "0", (1.5, 0.5): "0.25", (2.5, 0.5): "1",
        (0.5, 1.5): "×", (1.5, 1.5): "0.33", (2.5, 1.5): "0.5",
    }  # fmt: skip
    colours = axes[0].collections[0].get_array()
    assert np.allclose(colours.compressed(), [0, 0.25, 1, 0.333, 0.5]) and colours.mask.sum() == 1
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["one", "other"]
    assert axes[0].yaxis_inverted()


def test_names_of_columns_stand_below_the_last_row_of_panels_when_they_are_turned():
    names = ["a long name", "another one"]
    shares = table([[0, 1], [1, 0]], names)
    figure = share_cells({"a": shares, "b": shares, "c": shares}, label="Share", across=2, turned=True)
    shown = [any(tick.label1.get_visible() for tick in ax.xaxis.get_major_ticks()) for ax in figure.axes[:3]]
    assert shown == [False, True, True]
    assert figure.axes[2].get_xticklabels()[0].get_rotation() == 90


@pytest.mark.parametrize("value", [-0.1, 1.01])
def test_what_is_no_share_is_named(value):
    with pytest.raises(ValueError, match=rf"between 0 and 1; got {value:g} in 'K = 1'"):
        share_cells({"K = 1": table([[0, value], [1, 1]], [0, 1])}, label="Share")


def test_no_table_is_refused():
    with pytest.raises(ValueError, match="no table"):
        share_cells({}, label="Share")
