"""The stored runs of the grids as the rules of claims read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from hybrid.claims.rules.contrasts import LEARNT

if TYPE_CHECKING:
    import pandas

    from hybrid.claims.rules.base import Rule
    from hybrid.config import RunSpec, TaskConfig

GRIDS = {"recall": "recall", "text": "text", "suite": "mixture"}
"""Kind of metrics -> the grid of `hybrid.studies.scales` that they are read from; where a scale has none
of that name, its "mixture"."""
TEXT = ("loss_bits_per_byte", "last_word")
"""Metrics of text; "recall" and "recall_64", at a load of 64 pairs, are of recall, others of the suite."""
NAN = float("nan")
PLACE = ["run_id", "arm", "mixer", "label", "full_blocks", "depth", "seed", "status", "stale"]
COLUMNS = ["metric", "value", "chance", "floor", "tasks", "bits", "counter"]
LOAD = ["pairs", "distance", "accuracy"]
TASK = ["task", "accuracy", "chance", "floor"]


def kind(metric: str) -> str:
    """Which of `GRIDS` a metric is read from.

    >>> kind("last_word"), kind("recall_64"), kind("needle")
    ('text', 'recall', 'suite')
    """
    if metric in TEXT:
        return "text"
    return "recall" if metric.partition("_")[0] == "recall" else "suite"


def read_from(scale_name: str, some: str) -> str:
    """Name of the grid that a kind of metrics is read from at a scale."""
    from hybrid.studies.scales import SCALES

    return GRIDS[some] if GRIDS[some] in SCALES[scale_name] else "mixture"


def asked(
    rules: Iterable[Rule], scale_name: str, seeds: Sequence[int] = ()
) -> dict[str, dict[str, list[RunSpec]]]:
    """The runs that rules need, as `observed` takes them: arm -> kind of metrics -> runs.

    The mixers are those of the grid, and those beside them that a rule names. `seeds` hold for every grid;
    empty are each grid's own.
    """
    from hybrid.studies import grid

    @cache
    def runs(study: str, mixers: tuple[str, ...], arm: str) -> list[RunSpec]:
        return grid.grid(scale_name, study, mixers, seeds=seeds, arm=arm)

    beside: dict[str, dict[str, set[str]]] = {}
    for rule in rules:
        for arm in rule.arms():
            for some in map(kind, rule.metrics()):
                beside.setdefault(arm, {}).setdefault(some, set()).update(rule.named() - set(grid.MIXERS))
    return {
        arm: {
            some: runs(read_from(scale_name, some), (*grid.MIXERS, *sorted(more)), arm)
            for some, more in sorted(kinds.items())
        }
        for arm, kinds in sorted(beside.items())
    }


def observed(specs: Mapping[str, Mapping[str, Sequence[RunSpec]]]) -> pandas.DataFrame:
    """The stored results, one row a run and metric, see `hybrid.claims.rules.contrasts`. Nothing is trained.

    Every run has a row for each metric of its kind that its task measures, whatever is stored. "recall_64" is
    the accuracy at a load of 64 pairs at the length where a task is summed up, and so for every load.
    "suite", "needle" and the groups of the suite are means over those of their tasks that full attention has
    learnt at the training length, every seed to `LEARNT`; over all that are measured where it has learnt
    none. The column ``tasks`` says how many of how many; a group without a measured task has no row. Where
    both arms are read, the matched one says what is learnt.

    Args:
        specs: arm ("matched" or "published") -> kind of metrics, one of `GRIDS` -> runs, all of one task.

    Raises ``ValueError`` when there is no run.
    """
    import pandas

    from hybrid.data import suite
    from hybrid.runs import runner

    if not all(runs for kinds in specs.values() for runs in kinds.values()) or not any(specs.values()):
        raise ValueError("no run to observe")
    tables, of_suite, tasks, measured = [], [], [], {}
    for arm, kinds in specs.items():
        for some, runs in kinds.items():
            task = runs[0].task
            found = _placed(runner.collect(runs, minutes=0, progress=False), arm)
            match some:
                case "text" if task.recall_fraction < 1:
                    tables.append(_text(found))
                case "recall" if task.recall_fraction > 0:
                    tables.append(_recall(found, _at_home(runs, arm, "recall_by", LOAD), task))
                case "suite" if task.has_suite:
                    of_suite.append(found[PLACE])
                    measured |= suite.chosen(task.suite_tasks)
                    tasks.append(_at_home(runs, arm, "suite_by", TASK))
    if tasks:
        tables.append(_suite(pandas.concat(tasks), pandas.concat(of_suite), measured))
    return pandas.concat(tables or [pandas.DataFrame(columns=[*PLACE, *COLUMNS])], ignore_index=True)


def _text(found: pandas.DataFrame) -> pandas.DataFrame:
    """Observations of text, each with the run's loss and the counter that it has to beat."""
    import pandas

    found = found.reindex(columns=[*PLACE, *TEXT, "counter_bits_per_byte"])
    beside = {"bits": found["loss_bits_per_byte"], "counter": found["counter_bits_per_byte"]}
    return pandas.concat(
        [
            found[PLACE].assign(metric=metric, value=found[metric], chance=NAN, floor=NAN, tasks="", **beside)
            for metric in TEXT
        ]
    )


def _recall(found: pandas.DataFrame, rows: pandas.DataFrame, task: TaskConfig) -> pandas.DataFrame:
    """Observations of recall, and of recall at each load."""
    import pandas

    from hybrid.data.floors import recall_floor

    rows = rows[rows["distance"].isna()]
    loads = [pairs for pairs in task.eval_pairs if 4 * pairs <= task.home]
    trained = [pairs for pairs in loads if pairs in task.pairs] or loads
    by_load = {pairs: rows[rows["pairs"] == pairs].set_index("run_id")["accuracy"] for pairs in loads}
    values = {"recall": (found.get("recall", NAN), trained)}
    values |= {f"recall_{n}": (found["run_id"].map(of_run), [n]) for n, of_run in by_load.items()}
    return pandas.concat(
        [
            found[PLACE].assign(
                metric=metric,
                value=value,
                chance=sum(1 / n for n in counted) / len(counted),
                floor=sum(recall_floor(task.home, n) for n in counted) / len(counted),
                tasks="",
            )
            for metric, (value, counted) in values.items()
        ]
    )


def _suite(tasks: pandas.DataFrame, runs: pandas.DataFrame, measured: Collection[str]) -> pandas.DataFrame:
    """Observations of the suite and its groups, a row for every run, the missing ones too."""
    import pandas

    from hybrid.data.suite import NEEDLES, TASKS

    groups = {"suite": list(TASKS), "needle": list(NEEDLES)}
    for name, task in TASKS.items():
        groups.setdefault(task.group, []).append(name)
    arm = "matched" if (runs["arm"] == "matched").any() else "published"
    full = tasks[(tasks["arm"] == arm) & (tasks["mixer"] == "full")]
    lowest = full.groupby("task")["accuracy"].min()
    learnt = set(lowest.index[lowest >= LEARNT])
    parts = []
    for metric, names in groups.items():
        names = [name for name in names if name in measured]
        counted = [name for name in names if name in learnt]
        if not names:
            continue
        some = tasks[tasks["task"].isin(counted or names)]
        means = some.groupby("run_id")["accuracy"].mean()
        parts.append(
            runs.assign(
                metric=metric,
                value=runs["run_id"].map(means),
                chance=some["chance"].mean(),
                floor=some["floor"].fillna(some["chance"]).mean(),
                tasks=f"{len(counted)} of {len(names)}" if counted else "",
            )
        )
    return pandas.concat(parts)


def _at_home(runs: Sequence[RunSpec], arm: str, table: str, columns: Sequence[str]) -> pandas.DataFrame:
    """The rows of a table of the stored results at the length where the task is summed up."""
    import pandas

    from hybrid.runs import runner

    rows = runner.detail(runs, table)
    if rows.empty:
        return pandas.DataFrame(columns=[*PLACE, *columns])
    return _placed(rows[rows["length"] == runs[0].task.home], arm).reindex(columns=[*PLACE, *columns])


def _placed(frame: pandas.DataFrame, arm: str) -> pandas.DataFrame:
    """The runs with their arm and ratio label; the mixer of full attention is "full"."""
    from hybrid.studies import grid

    labels = {depth: grid.ratio_labels(int(depth)) for depth in frame["depth"].unique()}
    label = [labels[depth][layout] for depth, layout in zip(frame["depth"], frame["layout"], strict=True)]
    full = frame["full_blocks"] == frame["depth"]
    return frame.assign(arm=arm, mixer=frame["mixer"].mask(full, "full"), label=label)
