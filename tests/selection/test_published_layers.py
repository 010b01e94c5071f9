"""Layer sets that others shipped: well formed, and of a kind where a rule says which they must be."""

import pandas as pd

from hybrid.config.layout import Layout
from hybrid.papers import published
from hybrid.selection.drawn import Uniform

SETS = published.table("selected_layers")


def blocks(cell) -> list[int]:
    return [] if pd.isna(cell) else [int(block) for block in str(cell).split(";")]


def full(model: str, selector: str, branch: str = "gated_deltanet") -> Layout:
    """The layout of one row."""
    rows = SETS[(SETS["model"] == model) & (SETS["selector"] == selector) & (SETS["branch"] == branch)]
    (row,) = rows.itertuples()
    return Layout.from_full(blocks(row.full_layers_0_indexed), row.depth)


def test_every_set_names_different_layers_of_its_model_in_order():
    assert not SETS.duplicated(["model", "selector", "branch"]).any()
    assert (SETS.groupby("model")["depth"].nunique() == 1).all()
    for row in SETS.itertuples():
        kept, near = blocks(row.full_layers_0_indexed), blocks(row.window_layers_0_indexed)
        both = sorted(kept + near)
        assert kept == sorted(set(kept)) and len(both) == len(set(both))
        assert both[0] >= 0 and both[-1] < row.depth, row


def test_sets_of_one_quarter_hold_one_quarter():
    quarter = SETS[~SETS["selector"].str.startswith("PostNAS")]
    assert len(quarter) == len(SETS) - 2
    for row in quarter.itertuples():
        assert 4 * len(blocks(row.full_layers_0_indexed)) == row.depth, row


def test_even_spacing_is_ours_in_both_phases():
    assert full("Qwen2.5-3B", "uniform") == Uniform("first").layout(9, 36)
    assert full("Llama-3.2-3B", "uniform") == Uniform("last").layout(7, 28)


def test_it_says_what_was_read_and_what_was_told():
    assert set(SETS["status"]) == {"read in the code of record", "as reported by others"}
    files = SETS["source"].str.contains(r"\.(?:yaml|json)$")
    assert files.equals(SETS["status"] == "read in the code of record")
