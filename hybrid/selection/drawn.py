"""Layouts that look at nothing: evenly spaced, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from hybrid.config.layout import Layout
from hybrid.data.module import stream
from hybrid.selection.base import Problem, Selection, Selector, check_budgets

PHASES = ("first", "last")
LEAST_DRAWS = 5
"""Fewer sets say too little about the mean of all of them."""


@dataclass(frozen=True)
class Uniform(Selector):
    """Evenly spaced full blocks: L blocks are cut into K groups, group g (from 0) being the blocks from
    floor(g L / K) up to, not including, floor((g + 1) L / K), and one block of each stays full.

    Where K divides L the groups are equal; else their sizes differ by at most one. Papers differ in
    the phase: 12 blocks with 3 full ones are 0, 4, 8 or 3, 7, 11, the latter as `Layout.from_ratio` has it.
    """

    kind = "uniform"

    phase: str = "last"
    """Which block of its group is full: "first" or "last"."""

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"unknown phase {self.phase!r}; allowed: {', '.join(PHASES)}")

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """One layout a budget. Raises ``ValueError`` for a budget that the depth cannot meet."""
        depth = problem.morphable.depth
        check_budgets(budgets, depth)
        return Selection({budget: [self.layout(budget, depth)] for budget in budgets})

    def layout(self, budget: int, depth: int) -> Layout:
        """The layout of one budget.

        >>> str(Uniform("first").layout(3, 8)), str(Uniform("last").layout(3, 8))
        ('FLFLLFLL', 'LFLLFLLF')
        """
        edges = [group * depth // budget for group in range(budget + 1)]
        full = edges[:-1] if self.phase == "first" else [edge - 1 for edge in edges[1:]]
        return Layout.from_full(full, depth)


@dataclass(frozen=True)
class Random(Selector):
    """Different sets of full blocks, all sets equally likely, drawn by the seed of the problem's data.

    The sets of a budget do not depend on which other budgets are asked for.
    """

    kind = "random"

    draws: int = LEAST_DRAWS
    """Sets a budget; all of them where there are no more."""

    def __post_init__(self) -> None:
        if type(self.draws) is not int or self.draws < LEAST_DRAWS:
            raise ValueError(f"draws must be a whole number of at least {LEAST_DRAWS}; got {self.draws!r}")

    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Several layouts a budget. Raises ``ValueError`` for a budget that the depth cannot meet."""
        depth = problem.morphable.depth
        check_budgets(budgets, depth)
        return Selection({budget: self.layouts(budget, depth, problem.data.seed) for budget in budgets})

    def layouts(self, budget: int, depth: int, seed: int) -> list[Layout]:
        """The layouts of one budget, in the order drawn."""
        rng = stream(seed, "train", budget, *b"layouts")
        drawn: dict[Layout, None] = {}
        while len(drawn) < min(self.draws, comb(depth, budget)):
            full = rng.permutation(depth)[:budget].tolist()
            drawn[Layout.from_full(sorted(full), depth)] = None
        return list(drawn)
