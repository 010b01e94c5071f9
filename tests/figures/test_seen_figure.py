"""What a head sees: cells are where weights are above zero, the first query at the top."""

import numpy as np
import pytest

from hybrid.figures.seen_tokens import seen_tokens

WEIGHTS = np.tril(np.random.default_rng(0).uniform(1e-6, 1, (7, 7)))


def test_cells_are_dark_where_a_weight_is_above_zero():
    near = np.where(np.subtract.outer(np.arange(7), np.arange(7)) < 3, WEIGHTS, 0)
    figure = seen_tokens({"full": WEIGHTS, "window": near})
    for ax, weights in zip(figure.axes, (WEIGHTS, near), strict=True):
        (mesh,) = ax.collections
        assert np.array_equal(mesh.get_array().reshape(7, 7), weights > 0)
        light, dark = (sum(mesh.cmap(mesh.norm(value))[:3]) for value in (0, 1))
        assert light > 2.5 > 1 > dark
        assert ax.yaxis_inverted() and not ax.xaxis_inverted()
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "6"]
    assert [ax.get_title() for ax in figure.axes] == ["full", "window"]


@pytest.mark.parametrize(
    ("heads", "message"),
    [({}, "no head to draw"), ({"a": WEIGHTS[:3]}, r"weights of 'a' must be \[T, T\]; got \[3, 7\]")],
)
def test_what_cannot_be_drawn_is_refused(heads, message):
    with pytest.raises(ValueError, match=message):
        seen_tokens(heads)
