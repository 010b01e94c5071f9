"""Every cell says how many layouts of its row keep its block, and nothing is drawn outside the card."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from hybrid.figures.kept_blocks import kept_blocks

ROWS = st.integers(1, 40).flatmap(
    lambda depth: st.lists(st.text(alphabet="FLW", min_size=depth, max_size=depth), min_size=1, max_size=6)
)


def cells(figure):
    """(row, block) -> (number, patch)."""
    found = {}
    for patch in figure.findobj(Rectangle):
        if patch.get_gid():
            row, block, number = map(int, patch.get_gid().split("-"))
            assert (row, block) not in found
            found[row, block] = number, patch
    return found


@settings(max_examples=8, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_cells_count_the_layouts_that_keep_a_block(groups):
    found = cells(kept_blocks({f"method {i}": group for i, group in enumerate(groups)}))
    expected = {
        (row, block): sum(layout[block] == "F" for layout in group)
        for row, group in enumerate(groups)
        for block in range(len(group[0]))
    }
    assert {place: number for place, (number, _) in found.items()} == expected
    for (row, block), (_, patch) in found.items():
        assert bool(patch.get_hatch()) == any(layout[block] == "W" for layout in groups[row])


def test_the_more_layouts_keep_a_block_the_darker_it_is():
    found = cells(kept_blocks({"one": ["LFFFF", "LLFFF", "LLLFF", "LLLLF"]}))
    greys = [found[0, block][1].get_facecolor()[0] for block in range(5)]
    assert greys == sorted(greys, reverse=True) and len(set(greys)) == 5
    assert greys[0] == 1 and greys[4] == 0


def test_blocks_are_counted_from_0_and_budgets_are_written():
    words = [t.get_text() for t in kept_blocks({"a": ["LFL", "FFL"], "b": ["LLF"]}).findobj(Text)]
    assert {"0", "1", "2", "a", "b", "1 or 2 of 3", "1 of 3"} <= set(words) and "3" not in words


def test_nothing_is_drawn_outside_the_card():
    for figure in (
        kept_blocks({"x": ["FL"]}),
        kept_blocks({"a rather long name": ["LLLF" * 9], "b": ["FW"]}),
    ):
        figure.canvas.draw()
        width, height = figure.get_size_inches() * figure.dpi
        for thing in figure.findobj(lambda a: isinstance(a, (Rectangle, Text)) and a.axes):
            if (isinstance(thing, Text) and not thing.get_text()) or thing is thing.axes.patch:
                continue
            box = thing.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, thing


def test_impossible_rows_are_refused():
    with pytest.raises(ValueError, match="no layout to draw"):
        kept_blocks({})
    with pytest.raises(ValueError, match=r"row 'a' must have one depth; got \['FL', 'FLL'\]"):
        kept_blocks({"a": ["FL", "FLL"]})
    with pytest.raises(ValueError, match="row 'b' must have one depth"):
        kept_blocks({"a": ["FL"], "b": []})
