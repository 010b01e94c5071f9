"""Every set of full blocks, measured: the ground truth that other selectors are ranked by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import NamedTuple

from hybrid.config.layout import Layout
from hybrid.selection.base import Problem, Selection, Selector, check_budgets
from hybrid.selection.scored import Arranged, check_sequences
from hybrid.training.evaluation import passkey_accuracy, text_loss


@dataclass(frozen=True)
class Exhaustive(Selector):
    """The best of all sets of a budget, undistilled: highest accuracy on passkeys at their home length, and
    of equal ones the lowest loss on held-out text.

    It is the truth that others are ranked by, so it alone reads the questions and the text that results are
    reported on (`Problem.reported`): an upper bound for them, not a rival.
    """

    kind = "exhaustive"

    most: int = 500
    """Sets of all budgets together beyond which nothing is begun."""
    sequences: int = 64
    """Texts behind the recall, and behind the loss, of each set."""

    def __post_init__(self) -> None:
        check_sequences(self.sequences)
        if type(self.most) is not int or self.most < 1:
            raise ValueError(f"most must be a whole number of at least 1; got {self.most!r}")

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Table ``sets``: rows ``budget``, ``layout``, ``recall`` (0..1) and ``loss_bits_per_byte``, which
        `rank` reads.

        Raises ``ValueError`` for a budget that the depth cannot meet, too many sets, or a teacher that cannot
        read the passkeys.
        """
        depth = problem.morphable.depth
        check_budgets(budgets, depth)
        problem.passkeys.check(problem.morphable.teacher.config, problem.data.task)
        sets = sum(comb(depth, budget) for budget in budgets)
        if sets > self.most:
            raise ValueError(
                f"budgets {tuple(budgets)} of {depth} blocks have {sets} sets; allowed: at most {self.most}"
            )
        rows, layouts, tokens = [], {}, 0
        for budget in budgets:
            mine = []
            for full in combinations(range(depth), budget):
                layout = Layout.from_full(full, depth)
                model = Arranged(problem.morphable, layout)
                mine.append({"budget": budget, "layout": str(layout)} | self._measure(model, problem))
                tokens += model.tokens
            layouts[budget] = [Layout.parse(min(mine, key=_order)["layout"])]
            rows += mine
        return Selection(layouts, tokens=tokens, tables={"sets": rows})

    def _measure(self, model: Arranged, problem: Problem) -> dict[str, float]:
        data, passkeys = problem.reported, problem.passkeys
        whole = passkey_accuracy(model, data, passkeys, passkeys.eval_lengths[0], self.sequences)[0]
        return {"recall": whole["accuracy"]} | text_loss(model, data, self.sequences)


class Rank(NamedTuple):
    """Where a set stands among all sets of its budget."""

    place: float
    """From 1, the best, to `sets`; sets that tie share the mean of their places."""
    sets: int
    """Sets of the budget."""
    better: float
    """Share of the other sets that are better, a tie counting half: 0 is the best set, 1 the worst, and a set
    drawn at random has 1/2 on average."""


def rank(table: Sequence[dict], layout: Layout | str) -> Rank:
    """The rank of a layout in the table ``sets`` of `Exhaustive`, by recall and then by loss.

    Raises ``ValueError`` for a layout that the table does not hold.
    """
    name = str(Layout.parse(layout))
    found = next((row for row in table if row["layout"] == name), None)
    if found is None:
        raise ValueError(f"layout {name} is not among the {len(table)} sets of the table")
    orders = [_order(row) for row in table if row["budget"] == found["budget"]]
    mine = _order(found)
    others = len(orders) - 1
    before = sum(order < mine for order in orders) + (orders.count(mine) - 1) / 2
    return Rank(1 + before, len(orders), before / others)


def _order(row: dict) -> tuple[float, float]:
    """Smaller is better."""
    return -row["recall"], row["loss_bits_per_byte"]
