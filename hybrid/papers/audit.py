"""The arithmetic of the main paper, done again from the numbers that it prints.

Arithmetic is decimal and exact. A printed number *agrees* with a recomputed one where they differ by
at most half a unit of the last printed digit, so that nothing is called a difference that rounding
explains. The paper is 2507.06457; tables carry the numbers of version 1, with those of version 2
beside them, and the numbers are the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

import pandas as pd

from hybrid.config.layout import Layout
from hybrid.papers.published import PAPER, digits, table

NEEDLES = ("singlevalue", "multikey", "multivalue", "multiquery")
"""The groups of Table 6 that hold needle tasks: 8 of RULER's 13."""
RATIOS = ("24:1", "12:1", "6:1", "3:1")
"""The hybrid ratios of the paper, fewest full blocks first."""


def agrees(printed: Decimal, recomputed: Decimal) -> bool:
    """Whether rounding `recomputed` to the digits of `printed` can give `printed`; a tie may go either way.

    >>> agrees(Decimal("0.442"), Decimal("0.4425")), agrees(Decimal("0.423"), Decimal("0.3898"))
    (True, False)
    """
    half_unit = Decimal(1).scaleb(printed.as_tuple().exponent) / 2
    return abs(printed - recomputed) <= half_unit


def cells(number: int) -> dict[tuple[str, str], Decimal]:
    """(mixer, ratio) -> the printed average of Table 2, 3 or 6, or the entry of Table 4 or 5."""
    frame = digits(number)
    average = frame["over"] == "average"
    frame = frame[~average if number in (4, 5) else average]
    return dict(zip(zip(frame["mixer"], frame["ratio"], strict=True), frame["value"], strict=True))


def row_averages(number: int, *, weighted: bool = True) -> dict[str, tuple[Decimal, Decimal]]:
    """Row -> its printed average and the mean of its printed entries.

    A row of Tables 2, 3 and 6 is a model, such as "gla 3:1"; one of Tables 4 and 5 is a ratio.
    Table 6 prints seven groups of 13 tasks: weighted counts every task once, else every group.
    """
    frame = digits(number)
    row = frame["ratio"] if number in (4, 5) else frame["mixer"] + " " + frame["ratio"]
    rows = {}
    for name, group in frame.groupby(row, sort=False):
        printed = group.loc[group["over"] == "average", "value"].item()
        entries = group[group["over"] != "average"]
        rows[name] = printed, _mean(entries["value"], entries["tasks"] if weighted else None)
    return rows


def ruler_means() -> pd.DataFrame:
    """Table 6 averaged in three ways: one row a model, with the printed average beside them.

    Columns `row`, `printed`, `13 tasks` (each counts once), `7 groups` (each counts once), `8 needles`
    (the needle tasks alone).
    """
    frame = digits(6)
    frame["row"] = frame["mixer"] + " " + frame["ratio"]
    rows = []
    for name, (printed, tasks) in row_averages(6).items():
        needles = frame[(frame["row"] == name) & frame["over"].isin(NEEDLES)]
        groups = row_averages(6, weighted=False)[name][1]
        needle_mean = _mean(needles["value"], needles["tasks"])
        rows.append({"row": name, "printed": printed, "13 tasks": tasks, "7 groups": groups})
        rows[-1]["8 needles"] = needle_mean
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(frame.columns[1:], float))


def restoring_entry(row: str, group: str) -> Decimal:
    """The entry of a group of Table 6 with which the row's 13-task mean would be the printed average.

    Raises ``ValueError`` for a row or a group that is not printed.
    """
    frame = digits(6)
    chosen = frame[(frame["mixer"] + " " + frame["ratio"] == row) & (frame["over"] == group)]
    if len(chosen) != 1:
        raise ValueError(f"Table 6 holds no entry of row {row!r} and group {group!r}")
    printed, mean = row_averages(6)[row]
    tasks = digits(6).loc[lambda f: f["over"] == "average", "tasks"].iloc[0]
    return chosen["value"].item() + (printed - mean) * int(tasks) / int(chosen["tasks"].item())


def implied_other_scale() -> pd.DataFrame:
    """What Table 4, as a mean of two scales, implies for the scale that Tables 2 or 3 do not print.

    Columns `mixer`, `ratio`, `scale`, `implied` (twice Table 4 less the printed scale), `table`.
    """
    both, rows = cells(4), []
    for number, other, missing in ((2, 3, "1.3B"), (3, 2, "340M")):
        for key, value in cells(number).items():
            if key in both and key not in cells(other):
                rows.append((*key, missing, float(2 * both[key] - value), f"Tables 4 and {number}"))
    return pd.DataFrame(rows, columns=["mixer", "ratio", "scale", "implied", "table"])


def cache_factor(ratio: str, rule: str) -> Decimal:
    """How many times smaller than full attention's the cache of a hybrid is, under a rule of `Layout`."""
    period = int(ratio.partition(":")[0]) + (rule == "literal")
    layout = Layout.from_ratio(ratio, period, rule)
    return Decimal(len(layout)) / len(layout.full)


def checks(passes: Mapping[str, int]) -> pd.DataFrame:
    """Every printed number that the paper's other numbers determine, beside what they give.

    Args:
        passes: mixer -> FLOPs it spends on each element of its state, beside which the printed constants
            are set (`hybrid.mixers.base.LinearMixer.flops_per_element`).

    Returns:
        One row a check: `id`, `kind` ("average", "other weighting", "between tables", "count"), `paper`,
        `version`, `table`, `table_in_v2`, `row`, `how` it is recomputed, `printed`, `recomputed`,
        `difference` (printed less recomputed) and whether it `agrees` within rounding.
    """
    rows = [*_averages(), *_between_tables(), *_counts(passes)]
    names = ("kind", "table", "table_in_v2", "row", "how", "printed", "recomputed")
    frame = pd.DataFrame(rows, columns=names)
    pairs = list(zip(frame["printed"], frame["recomputed"], strict=True))
    frame["difference"] = [float(printed - again) for printed, again in pairs]
    frame["agrees"] = [agrees(printed, again) for printed, again in pairs]
    frame = frame.astype({"printed": float, "recomputed": float})
    frame.insert(0, "id", frame["table"] + ", " + frame["row"] + ", " + frame["how"])
    return frame.assign(paper=PAPER, version="v1")


def _averages() -> Iterable[tuple]:
    averaged = {2: "6 benchmarks", 3: "6 benchmarks", 4: "6 mixers", 5: "4 mixers", 6: "13 tasks"}
    for number, over in averaged.items():
        place = _place(number)
        for row, values in row_averages(number).items():
            yield "average", *place, row, f"mean of {over}", *values
    for row, values in row_averages(6, weighted=False).items():
        yield "other weighting", *_place(6), row, "mean of 7 groups", *values


def _between_tables() -> Iterable[tuple]:
    second, third, fourth, fifth, sixth = (cells(number) for number in (2, 3, 4, 5, 6))
    for key in second:
        if key in third and key in fourth:
            mean = (second[key] + third[key]) / 2
            how = "mean of Tables 2 and 3"
            yield "between tables", "Table 4", "Table 6", " ".join(key), how, fourth[key], mean
    for key in sixth:
        if key in fifth:
            how = "average in Table 6"
            yield "between tables", "Table 5", "Table 7", " ".join(key), how, fifth[key], sixth[key]


def _counts(passes: Mapping[str, int]) -> Iterable[tuple]:
    printed = table("table7_flops").assign(mixer=lambda f: f["trained_arm"].str.partition(" ")[0])
    for mixer, constant in zip(printed["mixer"], printed["passes_constant_k"], strict=True):
        if mixer in passes:
            how = "operations of the rule as computed"
            yield "count", "Table 7", "Table 4", mixer, how, Decimal(int(constant)), Decimal(passes[mixer])
    models = len(cells(4)) + 1
    yield (
        "count",
        "abstract",
        "abstract",
        "models a scale",
        "mixers x ratios + 1",
        Decimal(36),
        Decimal(models),
    )
    yield "count", "abstract", "abstract", "models", "two scales", Decimal(72), Decimal(2 * models)
    for ratio, factor in (("3:1", 4), ("6:1", 7)):
        for rule, says in (("literal", "r linear, then 1 full"), ("period", "every r-th full")):
            how = f"blocks over full blocks: {says}"
            row = f"cache at {ratio}"
            yield "count", "section 4.5", "section 4.5", row, how, Decimal(factor), cache_factor(ratio, rule)


def _place(number: int) -> tuple[str, str]:
    first = digits(number).iloc[0]
    return first["table"], first["table_in_v2"]


def _mean(values: Iterable[Decimal], weights: Iterable[int] | None = None) -> Decimal:
    values = list(values)
    weights = [1] * len(values) if weights is None else [int(w) for w in weights]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
