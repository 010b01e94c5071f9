"""Drawn stacks: every block of a layout is there once, and nobody needs colour to tell them apart."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, Rectangle
from matplotlib.text import Text

from hybrid.config import MIXERS
from hybrid.config.layout import LETTERS, Layout
from hybrid.figures.stack import COLUMN_BLOCKS, block_looks, stack, strips

letters = st.text(alphabet=sorted(LETTERS), min_size=1, max_size=40)


def drawn(figure):
    """The marked parts of a figure, as gid -> patches."""
    patches = [patch for kind in (Rectangle, Circle) for patch in figure.findobj(kind) if patch.get_gid()]
    return {gid: [p for p in patches if p.get_gid() == gid] for gid in {p.get_gid() for p in patches}}


def mixers(figure):
    """Letters of the drawn mixers, by block number."""
    found = {}
    for gid, patches in drawn(figure).items():
        if gid.startswith("mixer-"):
            _, letter, number = gid.split("-")
            assert len(patches) == 1, f"block {number} is drawn {len(patches)} times"
            found[int(number)] = letter
    return "".join(found[i] for i in sorted(found))


@settings(max_examples=15, deadline=None)
@given(letters)
def test_a_stack_holds_every_block_with_all_its_parts(layout):
    figure = stack(layout)
    mixing, feeding = (sum(map(layout.count, some)) for some in ("FWLPfwlp", "FWLPme"))
    assert mixers(figure) == re.sub("[me]", "", layout)
    parts = {gid: len(patches) for gid, patches in drawn(figure).items()}
    assert parts.get("mlp", 0) == feeding
    assert parts["sum"] == mixing + feeding
    assert parts["norm"] == mixing + feeding + 1
    assert parts["embeddings"] == parts["head"] == 1


@settings(max_examples=15, deadline=None)
@given(letters)
def test_the_name_of_each_block_is_written_as_often_as_its_letter_stands(layout):
    words = Counter(text.get_text() for text in stack(layout, "gla").findobj(Text))
    looks = block_looks("gla")
    mixing = re.sub("[me]", "", layout)
    assert {letter: words[f"{letter}  {looks[letter].name}"] for letter in set(mixing)} == Counter(mixing)


def test_later_blocks_stand_higher_and_then_further_right():
    places = {
        int(gid.rsplit("-", 1)[1]): tuple(patches[0].get_xy())
        for gid, patches in drawn(stack("L" * (2 * COLUMN_BLOCKS))).items()
        if gid.startswith("mixer-")
    }
    ordered = [places[i] for i in sorted(places)]
    assert ordered == sorted(ordered)
    assert len({x for x, _ in ordered}) == 2


def test_nothing_is_drawn_outside_the_card():
    for figure in (stack("LF"), stack("LLF" * 8), strips({"3:1, literal rule": Layout("LLLF" * 6)})):
        figure.canvas.draw()
        width, height = figure.get_size_inches() * figure.dpi
        for thing in figure.findobj(lambda a: isinstance(a, (Rectangle, Text)) and a.axes):
            if (isinstance(thing, Text) and not thing.get_text()) or thing is thing.axes.patch:
                continue
            box = thing.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, thing


@settings(max_examples=15, deadline=None)
@given(st.lists(letters, min_size=1, max_size=4))
def test_strips_hold_every_block_of_every_layout(rows):
    figure = strips({str(i): Layout(row) for i, row in enumerate(rows)})
    found = Counter(gid.split("-")[1] for gid, patches in drawn(figure).items() for _ in patches)
    assert found == Counter("".join(rows))
    counts = [text.get_text() for text in figure.findobj(Text) if text.get_text().endswith(" full")]
    assert counts == [f"{sum(map(row.count, 'FfPp'))} of {len(row)} full" for row in rows]


def filtered(color):
    """A colour as the theme's dark mode shows a figure: brightness 0.8, then contrast 1.2."""
    return [min(1, max(0, (0.8 * c - 0.5) * 1.2 + 0.5)) for c in to_rgb(color)]


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(weight * c for weight, c in zip([0.2126, 0.7152, 0.0722], linear, strict=True))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("shown", [to_rgb, filtered], ids=["light", "dark"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_letters_differ_without_colour_and_can_be_read(mixer, shown):
    looks = block_looks(mixer)
    assert set(looks) == set(LETTERS)
    named = {(kind.mixers, not kind.mixers and kind.mlp): looks[letter] for letter, kind in LETTERS.items()}
    assert len({look.name for look in named.values()}) == len(named)
    for look in looks.values():
        assert contrast(shown(look.fill), shown(look.ink)) >= 4.5
        assert contrast(shown(look.edge), shown("white")) >= 3 or look.hatch == ""
    assert contrast(shown(looks["F"].fill), shown(looks["L"].fill)) >= 3
    assert contrast(shown(looks["F"].fill), shown(looks["W"].fill)) >= 3
    assert looks["W"].hatch != looks["L"].hatch


def test_the_card_is_opaque_white():
    for figure in (stack("LF"), strips({"a": Layout("LF")})):
        assert to_rgb(figure.get_facecolor()) == (1, 1, 1) and figure.get_facecolor()[3] == 1


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match="unknown mixer 'lstm'; allowed: deltanet, gated_deltanet"):
        stack("LF", "lstm")
    with pytest.raises(ValueError, match="unknown block 'X' at position 1"):
        stack("LX")
    with pytest.raises(ValueError, match="no layout"):
        strips({})
