"""Numbers printed in the papers, with paper, version and table beside every value."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parents[2] / "book" / "published"
PAPER = "arXiv:2507.06457"

AVERAGED = {
    2: ("table2_lm_340m", "score", "benchmark"),
    3: ("table3_lm_1p3b", "score", "benchmark"),
    4: ("table4_lm_by_ratio", "lm_average_over_340m_and_1p3b", "mixer"),
    5: ("table5_recall_by_ratio", "ruler_average", "mixer"),
    6: ("table6_ruler_best", "score", "ruler_group"),
}
"""Number in version 1 -> file, column of its values, and what its averages run over."""


def table(name: str) -> pd.DataFrame:
    """A file of `book/published` as a frame; its columns `paper`, `version` and `table` say where
    each value is printed. Raises ``ValueError`` naming the files there are."""
    return pd.read_csv(_path(name))


@cache
def paper_mixers() -> tuple[str, ...]:
    """The linear mixers that the main paper trains, in the order of its Table 7: what its claims range over,
    whatever else the book holds."""
    trained = table("table7_flops")["trained_arm"].str.partition(" ")[0]
    return tuple(name for name in trained if name not in ("transformer", "not"))


def recipe_heads(mixer: str, hidden: int) -> dict[str, int]:
    """Heads of the main paper's models, as fields of a `LinearConfig`; none where a mixer has no heads. What
    is known of them, and from where, stands in `book/published/recipe_heads.csv`.

    Args:
        mixer: of the paper.
        hidden: width of the model, in channels.
    """
    rows = table("recipe_heads").set_index("mixer")
    if mixer not in rows.index:
        return {}
    row = rows.loc[mixer]
    heads = {"num_heads": int(row["num_heads"] if row["num_heads"] > 0 else hidden // row["head_width"])}
    if row["known"] == "found":
        heads |= {"head_k_dim": int(row["head_width"]), "head_v_dim": int(row["head_width"])}
    return heads


def table7_flops(mixer: str, length: int, d_model: int = 2048, heads: int = 8) -> float:
    """FLOPs per token of one layer as the paper counts them: its constant times the state's size.

    Square heads are assumed, ``d_k = d_v = d_model / heads``, and projections are left out.
    Raises ``ValueError`` for a mixer that is not in the table, or a length below 1.
    Source: 2507.06457 v1, Table 7 (v2, Table 4), from `book/published/table7_flops.csv`.
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"length must be a whole number of at least 1; got {length!r}")
    rows = table("table7_flops").set_index("mixer")
    if mixer not in rows.index:
        raise ValueError(f"no mixer {mixer!r} in Table 7; there are: {', '.join(rows.index)}")
    row = rows.loc[mixer]
    if row["cost_in_sequence_length"] == "quadratic":
        return 2.0 * length * d_model
    state = d_model**2 / heads if row["flops_per_token_per_layer_formula"].endswith("/H") else d_model
    return float(row["passes_constant_k"]) * state


def digits(number: int) -> pd.DataFrame:
    """Tables 2 to 6 of the main paper, digit by digit, in one form.

    Args:
        number: of the table in version 1.

    Returns:
        One row a printed value: `paper`, `version`, `table`, `table_in_v2`; `mixer`, `ratio`; `over`,
        what the value is for, and "average" where it is the printed average of a row; `tasks`, how
        many tasks it stands for; and `value`, a ``Decimal`` with the printed number of digits.

    Raises ``ValueError`` naming the tables that hold averages.
    """
    if number not in AVERAGED:
        raise ValueError(f"no averages in table {number!r}; there are: {', '.join(map(str, AVERAGED))}")
    name, value, over = AVERAGED[number]
    frame = pd.read_csv(_path(name), dtype=str)
    frame = frame[frame["value_kind"].isin(["entry", "printed_average"])]
    average = frame["value_kind"] == "printed_average"
    tasks = frame["ruler_tasks_in_group"].astype(int) if number == 6 else 1
    place = frame[["paper", "version", "table", "table_in_v2", "mixer", "ratio"]]
    over = frame[over].mask(average, "average")
    return place.assign(over=over, tasks=tasks, value=frame[value].map(Decimal)).reset_index(drop=True)


def _path(name: str) -> Path:
    names = sorted(file.stem for file in FOLDER.glob("*.csv"))
    if name not in names:
        raise ValueError(f"no published table {name!r}; there are: {', '.join(names)}")
    return FOLDER / f"{name}.csv"
