"""Figures of gates: what is drawn is what the table holds."""

import numpy as np
import pandas as pd
import pytest

from hybrid.figures.gates import block_look, gate_curves, gate_surface


def steps(depth=3, runs=("a",)):
    return pd.DataFrame(
        {"run": run, "step": step, "block": block, "gate": 1 - 0.1 * step * block - 0.01 * place}
        for place, run in enumerate(runs)
        for step in (3, 1, 2)
        for block in range(depth)
    )


def test_a_line_a_block_in_the_order_of_the_steps():
    figure = gate_curves(steps(runs="ab"), "step", panel="run", xlabel="Step")
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    for place, ax in enumerate(figure.axes):
        for block, line in enumerate(ax.lines):
            assert line.get_label() == f"block {block}"
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata() == pytest.approx([1 - 0.1 * s * block - 0.01 * place for s in (1, 2, 3)])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["block 0", "block 1", "block 2"]


def test_a_logarithmic_axis_has_a_tick_a_value():
    df = steps().assign(step=lambda d: d["step"].map({1: 0.1, 2: 1.0, 3: 10.0}))
    ax = gate_curves(df, "step", xlabel="λ", log=True).axes[0]
    assert ax.get_xscale() == "log" and ax.xaxis.get_majorticklocs().tolist() == [0.1, 1.0, 10.0]


@pytest.mark.parametrize("depth", [1, 8, 12])
def test_every_block_has_a_look_of_its_own_that_white_bears(depth):
    looks = [block_look(block, depth) for block in range(depth)]
    assert len({look.marker for look in looks}) == len({look.color for look in looks}) == depth
    for look in looks:
        channels = [int(look.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert 1.05 / (luminance + 0.05) >= 3


def test_a_surface_marks_its_least_value_and_both_ends_of_the_way():
    grid = np.linspace(0, 1, 5)
    values = 1 + (grid[:, None] - 0.75) ** 2 + (grid - 0.25) ** 2
    paths = {"here": [(1.0, 1.0), (0.5, 0.9), (0.25, 0.75)]}
    figure = gate_surface({"here": values}, xlabel="a", ylabel="b", label="loss", paths=paths)
    drawn = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert drawn["least on the grid"] == [[0.25, 0.75]] == drawn["its end"]
    assert drawn["its start"] == [[1.0, 1.0]]
    levels = figure.axes[1].get_yticks()
    assert levels[0] == pytest.approx(values.min()) and levels[-1] == pytest.approx(values.max())
    assert levels[1:] / levels[:-1] == pytest.approx([levels[1] / levels[0]] * 8)
    assert drawn["the way of the training"] == [list(point) for point in paths["here"]]


@pytest.mark.parametrize("values", [np.ones((2, 3)), np.zeros((2, 2)), np.ones(4)])
def test_a_surface_that_cannot_be_drawn_is_refused(values):
    with pytest.raises(ValueError, match="surface 'x' must be"):
        gate_surface({"x": values}, xlabel="", ylabel="", label="", paths={"x": [(0, 0)]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gate_curves(steps().drop(columns="gate"), "step", xlabel=""), "no column 'gate'"),
        (lambda: gate_curves(steps()[:0], "step", xlabel=""), "the table is empty"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
