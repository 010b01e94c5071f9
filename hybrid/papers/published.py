"""Numbers printed in the papers, with paper, version and table beside every value."""

from __future__ import annotations

from decimal import Decimal
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
