"""Figures: what is drawn is what the numbers say, and nobody needs to see colour to read it."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from scipy import stats

from hybrid import figures
from hybrid.config import MIXERS
from hybrid.figures.state_strip import state_strip
from hybrid.statistics.intervals import interval, summary

LOOKS = [figures.MIXER_STYLE, figures.FAMILY_STYLE]
DICHROMATS = {  # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(color):
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
    x = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def runs(seeds=3, mixers=("retnet", "gated_deltanet"), blocks=(0, 1, 2)):
    rng = np.random.default_rng(0)
    grid = itertools.product(mixers, blocks, range(seeds))
    rows = [
        {"mixer": m, "full_blocks": b, "seed": s, "recall": rng.random(), "loss": rng.random()}
        for m, b, s in grid
    ]
    return pd.DataFrame(rows)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_interval_is_students(values):
    mean, low, high = interval(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    spread = np.std(values, ddof=1)
    if spread > 1e-6:
        test = stats.ttest_1samp(values, popmean=0).confidence_interval(0.95)
        assert (low, high) == pytest.approx((test.low, test.high), rel=1e-9, abs=1e-9)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    bounds = [interval(rng.normal(size=3))[1:] for _ in range(4000)]
    assert np.mean([low < 0 < high for low, high in bounds]) == pytest.approx(0.95, abs=0.012)


def test_interval_of_one_value_has_no_width():
    mean, low, high = interval([0.5])
    assert mean == 0.5 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize(
    ("values", "level", "named"), [([], 0.95, "none"), ([1, np.nan], 0.95, "nan"), ([1, 2], 95, "95")]
)
def test_interval_refuses(values, level, named):
    with pytest.raises(ValueError, match=named):
        interval(values, level)


def test_summary_counts_only_runs_that_have_a_number():
    df = runs(mixers=("gla",), blocks=(0, 1))
    df.loc[0, "recall"] = np.nan
    table = summary(df, ["full_blocks"], "recall").set_index("full_blocks")
    assert table["n"].tolist() == [2, 3]
    assert table.loc[0, "mean"] == pytest.approx(df["recall"][1:3].mean())
    with pytest.raises(ValueError, match="'nothing'"):
        summary(df, ["nothing"], "recall")


def test_every_mixer_has_its_own_look():
    assert set(MIXERS) < set(figures.MIXER_STYLE)
    for looks in LOOKS:
        for field in ("label", "color", "marker", "dash"):
            values = [getattr(look, field) for look in looks.values()]
            if field != "dash":
                assert len(set(values)) == len(values), field
        combined = [(look.marker, look.dash) for look in looks.values()]
        assert len(set(combined)) == len(combined)


@pytest.mark.parametrize("sight", DICHROMATS)
@pytest.mark.parametrize("looks", LOOKS)
def test_colours_differ_for_every_kind_of_sight(looks, sight):
    seen = [lab(np.array(DICHROMATS[sight]) @ linear(look.color)) for look in looks.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 25


def test_ink_and_lines_stand_out_from_the_card():
    for color, least in [(figures.INK, 7), *((look.color, 3) for looks in LOOKS for look in looks.values())]:
        assert 1.05 / (linear(color) @ [0.2126, 0.7152, 0.0722] + 0.05) >= least, color
    for color, _, _ in figures.NEUTRAL:
        assert 1.05 / (linear(color) @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3, color


def lines(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def text(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text)]


def test_curves_draw_means_points_and_n():
    df = runs()
    figure = figures.curves_with_interval(
        df, "full_blocks", "recall", "mixer", xlabel="blocks", ylabel="recall"
    )
    (ax,) = figure.axes
    drawn = lines(ax, "RetNet")
    expected = df[df.mixer == "retnet"].groupby("full_blocks")["recall"].mean()
    assert drawn.get_ydata() == pytest.approx(expected.to_numpy())
    dots = [line for line in ax.lines if len(line.get_xdata()) == 9]
    assert len(dots) == 2, "every seed of both mixers is drawn"
    assert "mean, 95 % interval, n = 3" in text(figure)
    assert ax.collections[0].get_paths()[0].get_extents().ymax == pytest.approx(
        summary(df[df.mixer == "retnet"], ["full_blocks"], "recall")["high"].max()
    )


def test_five_seeds_need_no_dots_and_one_seed_claims_no_interval():
    five = figures.curves_with_interval(runs(5), "full_blocks", "recall", "mixer", xlabel="", ylabel="")
    assert len(five.axes[0].lines) == 2
    one = figures.curves_with_interval(runs(1), "full_blocks", "recall", "mixer", xlabel="", ylabel="")
    assert "one value a point" in text(one)


def test_two_seeds_are_drawn_and_claim_no_interval():
    two = figures.curves_with_interval(runs(2), "full_blocks", "recall", "mixer", xlabel="", ylabel="")
    assert "mean, n = 2" in text(two) and "interval" not in " ".join(text(two))
    assert all(not band.get_paths() for band in two.axes[0].collections)
    some = pd.concat([runs(3), runs(2, mixers=("gla",))])
    mixed = figures.curves_with_interval(some, "full_blocks", "recall", "mixer", xlabel="", ylabel="")
    assert "mean, 95 % interval from 3 values on, n = 2 to 3" in text(mixed)


def test_panels_and_references_stay_in_their_panel():
    df = pd.concat([runs().assign(keys="a"), runs().assign(keys="b")])
    line = pd.DataFrame({"full_blocks": [0, 2], "recall": [0.1, 0.9], "mixer": "prediction", "keys": "b"})
    figure = figures.curves_with_interval(
        df, "full_blocks", "recall", "mixer", panel="keys", references=line, xlabel="", ylabel=""
    )
    left, right = figure.axes
    assert "prediction" not in [line.get_label() for line in left.lines]
    assert lines(right, "prediction").get_ydata() == pytest.approx([0.1, 0.9])


def test_length_axes_are_logarithmic():
    df = pd.DataFrame({"length": [1024, 4096, 16384], "flops": [1.0, 4.0, 16.0], "mixer": "gla"})
    figure = figures.line_by_length(df, "length", "flops", "mixer", ylabel="FLOPs")
    (ax,) = figure.axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    figure.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1k", "4k", "16k"]
    with pytest.raises(ValueError, match="positive flops; got 0"):
        figures.line_by_length(df.assign(flops=0.0), "length", "flops", "mixer", ylabel="")


def test_full_attention_is_a_band_beside_the_hybrids():
    baseline = runs(mixers=("full",), blocks=(6,))
    metrics = {"recall": "Recall", "loss": "Bits per byte"}
    figure = figures.by_full_blocks(runs(), metrics, baseline=baseline)
    assert [ax.get_ylabel() for ax in figure.axes] == list(metrics.values())
    for ax, metric in zip(figure.axes, metrics, strict=True):
        drawn = lines(ax, "Full attention (all blocks)")
        assert drawn.get_ydata()[0] == pytest.approx(baseline[metric].mean())
    figures.by_full_blocks(runs(1), metrics, baseline=baseline[:1]).canvas.draw()


def test_state_strip_draws_every_value_on_one_scale():
    states = np.random.default_rng(0).normal(size=(3, 5, 4))
    figure = state_strip({"matrix": [*states], "vector": [s[:1] for s in states]}, "123", keys="ABCDE")
    meshes = figure.axes[0].collections
    assert len(meshes) == 6
    assert np.asarray(meshes[1].get_array()).ravel() == pytest.approx(states[1].ravel())
    assert {mesh.get_clim() for mesh in meshes} == {(-np.abs(states).max(), np.abs(states).max())}
    assert text(figure).count("A") == 1, "only the rows with five channels name them"
    with pytest.raises(ValueError, match="'matrix' holds 2 arrays for 3 titles"):
        state_strip({"matrix": [*states[:2]]}, "123")


def test_empty_tables_and_missing_columns_are_named():
    with pytest.raises(ValueError, match="'depth'; the table has mixer"):
        figures.by_full_blocks(runs(), {"recall": ""}, x="depth")
    with pytest.raises(ValueError, match="empty"):
        figures.by_full_blocks(runs()[:0], {"recall": ""})


def test_style_gives_an_opaque_card_of_page_width(tmp_path):
    with matplotlib.rc_context():
        figures.style()
        figure = figures.by_full_blocks(runs(), {"recall": "Recall"})
        assert to_rgb(figure.get_facecolor()) == (1, 1, 1) and figure.get_facecolor()[3] == 1
        assert figure.get_size_inches()[0] == figures.PAGE_WIDTH
        figure.savefig(tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size < 200_000


def test_panels_wrap_into_rows_and_keep_their_own_horizontal_axes():
    rows = [{"x": x, "y": 0.5, "hue": "gla", "panel": p} for p in range(5) for x in (1, 10 ** (p + 1))]
    figure = figures.curves_with_interval(
        pd.DataFrame(rows), "x", "y", "hue", panel="panel", xlabel="Steps", ylabel="Recall"
    )
    axes = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == list("01234")
    assert len({round(ax.get_position().y0, 2) for ax in axes}) == 2
    assert [bool(ax.get_xlabel()) for ax in axes] == [False, False, True, True, True]
    limits = [ax.get_xlim()[1] for ax in axes]
    assert all(later > 5 * earlier for earlier, later in itertools.pairwise(limits))
