"""Pairs of tokens by group: every pair carries its group's name, whatever its colour."""

from collections import Counter

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from hybrid.figures import INK
from hybrid.figures.tile import SHADES, tile


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return sum(weight * c for weight, c in zip([0.2126, 0.7152, 0.0722], linear, strict=True))


def test_every_pair_carries_its_name_at_its_place():
    groups = np.array([[1, 0, 0], [2, 1, 0], [3, 2, 1]])
    (ax,) = tile(groups, ["", "a", "b", "c"], xlabel="key", ylabel="query").axes
    assert Counter(text.get_text() for text in ax.texts) == {"": 3, "a": 3, "b": 2, "c": 1}
    found = {text.get_position(): text.get_text() for text in ax.texts}
    assert found[(0, 2)] == "c" and found[(2, 0)] == ""
    assert ax.yaxis_inverted() and ax.get_xlabel() == "key"


def test_letters_are_legible_on_every_shade():
    ink = luminance(INK)
    assert all((luminance(shade) + 0.05) / (ink + 0.05) >= 4.5 for shade in SHADES)
    assert len({*SHADES}) == len(SHADES)


@pytest.mark.parametrize("groups", [[[2]], [[-1]]])
def test_a_group_without_a_name_is_refused(groups):
    with pytest.raises(ValueError, match=r"groups must be from 0 to 1; got"):
        tile(np.array(groups), ["", "a"], xlabel="", ylabel="")
