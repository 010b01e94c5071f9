"""Bars of parts: each where the one before ends, the whole written behind."""

import pandas as pd
import pytest

from hybrid.figures.parts_of_a_whole import LOOKS, parts

ROWS = pd.DataFrame(
    [("a", "data", 1.0), ("a", "forward", 2.0), ("b", "data", 4.0), ("b", "forward", 0.25)],
    columns=["model", "part", "ms"],
)


def test_parts_follow_one_another():
    (ax,) = parts(ROWS, "model", "part", "ms", xlabel="ms").axes
    bars = [(c.get_label(), p.get_x(), p.get_width()) for c in ax.containers for p in c.patches]
    assert bars == [("data", 0, 1), ("data", 0, 4), ("forward", 1, 2), ("forward", 4, 0.25)]
    assert {t.get_text().strip(): t.get_position() for t in ax.texts} == {"3": (3, 0), "4.25": (4.25, 1)}
    assert ax.yaxis_inverted() and ax.get_xlabel() == "ms"


def test_hatches_or_fills_tell_parts_apart():
    (ax,) = parts(ROWS, "model", "part", "ms", xlabel="ms").axes
    looks = {(p.get_facecolor(), p.get_hatch()) for c in ax.containers for p in c.patches}
    assert len(looks) == 2 and len(set(LOOKS)) == len(LOOKS)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="at least 0; got -1"):
        parts(ROWS.assign(ms=-1.0), "model", "part", "ms", xlabel="ms")
    many = pd.DataFrame([("a", str(i), 1.0) for i in range(7)], columns=["model", "part", "ms"])
    with pytest.raises(ValueError, match="at most 6 parts can be told apart; got 7"):
        parts(many, "model", "part", "ms", xlabel="ms")
