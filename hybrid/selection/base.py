"""What every selector is given and gives back.

A selector is a frozen dataclass: its fields are the method's open points, and `select` does the work
on a teacher with aligned second mixers. It leaves the weights of both as they were.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.config.layout import Layout
from hybrid.config.specs import Choice, Spec
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys


@dataclass(frozen=True)
class Problem:
    """What a selector works on."""

    morphable: Morphable
    """The teacher and its second mixers, frozen."""
    data: TaskData
    """The teacher's task; its seed orders what a selector reads. Where results are to be reported, it is
    ``asked`` for choosing: no selector may choose on the questions it is judged by."""
    passkeys: Passkeys
    """Retrieval texts, for training gates and for measuring."""
    folder: Path | None = None
    """Where a method that trains keeps its checkpoints; None: nowhere."""

    @property
    def reported(self) -> TaskData:
        """The task with the questions that results are reported on, for the truth that selectors are ranked
        by."""
        return TaskData(self.data.task, self.data.train, self.data.seed)


@dataclass
class Selection:
    """What a selector found."""

    layouts: dict[int, list[Layout]]
    """Number of full blocks -> the layout; several only where the method draws them."""
    scores: list[float] | None = None
    """A number a block, the higher the more it should stay full; None where the method has none."""
    tokens: int = 0
    """Tokens that passed through a model, forward; a backward pass counts as two more."""
    curve: list[dict] = field(default_factory=list)
    """Points along a training, if the method trains."""
    tables: dict[str, list[dict]] = field(default_factory=dict)
    """What else the method measured, one table a name."""


class Selector(Choice):
    """A method that chooses blocks; each is a frozen dataclass with a `kind`."""

    @abstractmethod
    def select(self, problem: Problem, budgets: Sequence[int]) -> Selection:
        """Choose the blocks that stay full, for each number of them.

        Args:
            problem: the teacher, the second mixers and the data.
            budgets: numbers of full blocks, each from 1 to depth - 1.
        """


@dataclass(frozen=True)
class SelectSpec(Spec):
    """One selector on one teacher with one set of second mixers."""

    kind = "select"
    rooms = ("models", "data", "training", "conversion", "selection")

    align: AlignSpec
    """The teacher and the second mixers."""
    selector: Selector
    """The method with its settings."""
    budgets: tuple[int, ...]
    """Numbers of full blocks."""
    passkeys: Passkeys = field(default_factory=Passkeys)
    """Retrieval texts for methods that use them."""
    seed: int = 0
    """Seeds what the method draws, and the order of its data."""

    def __post_init__(self) -> None:
        check_budgets(self.budgets, self.align.teacher.model.depth)
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0; got {self.seed!r}")


def check_budgets(budgets: Sequence[int], depth: int) -> None:
    """Raises ``ValueError`` naming a budget that a model of this depth cannot meet, or given twice."""
    if not budgets:
        raise ValueError("budgets must name at least one number of full blocks")
    for budget in budgets:
        if type(budget) is not int or not 1 <= budget < depth:
            raise ValueError(
                f"a budget is a number of full blocks from 1 to {depth - 1} of {depth}; got {budget!r}"
            )
        if list(budgets).count(budget) > 1:
            raise ValueError(f"budgets holds {budget} more than once")


def top(scores: Sequence[float], budget: int) -> Layout:
    """Full attention where the scores are highest; of equal ones the earlier block comes first.

    >>> str(top([0.1, 0.9, 0.5, 0.9], 2))
    'LFLF'
    """
    ranked = sorted(range(len(scores)), key=lambda block: (-scores[block], block))
    return Layout.from_full(sorted(ranked[:budget]), len(scores))


def by_scores(scores: Sequence[float], budgets: Sequence[int], **more) -> Selection:
    """The selection that keeps the highest scores, for each budget."""
    scores = [float(score) for score in scores]
    return Selection({budget: [top(scores, budget)] for budget in budgets}, scores, **more)
