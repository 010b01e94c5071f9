"""Layouts and ratio labels."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hybrid.config.layout import LETTERS, Layout

# Full-attention blocks of the released 24-block checkpoints, counted from 1 (huggingface.co/m-a-p; the 12:1
# positions and the eight blocks of 3:1 are reported by their readers, the rest follow the same rule).
RELEASED = {
    "pure": [],
    "24:1": [24],
    "12:1": [12, 24],
    "6:1": [6, 12, 18, 24],
    "3:1": [3, 6, 9, 12, 15, 18, 21, 24],
}


@pytest.mark.parametrize("ratio", RELEASED)
def test_period_rule_gives_the_released_checkpoints(ratio):
    layout = Layout.from_ratio(ratio, depth=24)
    assert [position + 1 for position in layout.full] == RELEASED[ratio]
    assert layout.describe() == f"full blocks {len(RELEASED[ratio])} of 24"


@pytest.mark.parametrize(("ratio", "full"), [("1:1", 12), ("2:1", 8), ("3:1", 6), ("5:1", 4), ("23:1", 1)])
def test_literal_rule_holds_r_linear_blocks_for_each_full_one(ratio, full):
    layout = Layout.from_ratio(ratio, depth=24, rule="literal")
    linear = 24 - full
    assert (len(layout.full), str(layout).count("L")) == (full, linear)
    assert linear == int(ratio.split(":")[0]) * full
    assert str(layout).endswith("LF")


def test_full_has_no_linear_block():
    assert str(Layout.from_ratio("full", 4)) == "FFFF"


@given(st.integers(1, 12), st.integers(1, 8), st.sampled_from(["period", "literal"]))
def test_every_group_ends_with_its_full_block(r, groups, rule):
    period = r + (rule == "literal")
    assume(period > 1)
    layout = Layout.from_ratio(f"{r}:1", period * groups, rule)
    assert layout.full == tuple(range(period - 1, period * groups, period))
    assert set(layout.letters) <= {"L", "F"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Layout.from_ratio("24:1", 12),
            "24:1 needs a depth divisible by 24 under the period rule; got 12",
        ),
        (
            lambda: Layout.from_ratio("24:1", 24, "literal"),
            "24:1 needs a depth divisible by 25 under the literal rule; got 24",
        ),
        (lambda: Layout.from_ratio("0:1", 12), "unknown ratio '0:1'"),
        (lambda: Layout.from_ratio("3:2", 12), "allowed: 'pure', 'full', or 'r:1'"),
        (lambda: Layout.from_ratio(3, 12), "unknown ratio 3"),
        (lambda: Layout.from_ratio("3:1", 12, "odd"), "unknown ratio rule 'odd'; allowed: period, literal"),
        (lambda: Layout.from_ratio("3:1", 0), "depth must be a positive number of blocks; got 0"),
        (lambda: Layout.from_ratio("1:1", 4), "write 'full', or '2:1' for every second block"),
        (lambda: Layout.parse(""), "at least one block"),
        (lambda: Layout.parse(None), "a layout is a string or a list of letters; got None"),
        (lambda: Layout.parse("LLX"), "unknown block 'X' at position 2 of layout 'LLX'; allowed: F"),
        (lambda: Layout.parse(["L", "FF"]), "one letter a block; got 'FF'"),
        (lambda: Layout.from_full([4], 4), "full block 4 is outside the model; allowed: 0..3 at depth 4"),
        (lambda: Layout.from_full([-1], 4), "full block -1 is outside"),
        (lambda: Layout.from_full([1, 1], 4), "full block 1 is named 2 times"),
    ],
)
def test_errors_name_the_value_and_the_allowed_ones(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


layouts = st.text(alphabet="".join(LETTERS), min_size=1, max_size=24)


@given(layouts)
def test_reading_and_writing_are_inverse(letters):
    layout = Layout.parse(letters)
    assert str(layout) == letters
    assert Layout.parse(list(letters)) == Layout.parse(layout) == layout
    assert hash(Layout.parse(letters)) == hash(layout)
    assert (len(layout), "".join(layout)) == (len(letters), letters)


@given(st.sets(st.integers(0, 11)))
def test_from_full_puts_full_blocks_where_asked(positions):
    assert set(Layout.from_full(positions, 12).full) == positions
