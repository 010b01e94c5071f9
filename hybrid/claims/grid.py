"""The stored runs of the grid as the rules of claims read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from hybrid.claims.rules.contrasts import LEARNT

if TYPE_CHECKING:
    import pandas

    from hybrid.config import RunSpec, TaskConfig

PLACE = ["run_id", "arm", "mixer", "label", "full_blocks", "depth", "seed", "status", "stale"]
TASK = ["task", "accuracy", "chance", "floor"]
SCALARS = ("loss_bits_per_byte", "last_word", "recall")


def observed(specs: Mapping[str, Sequence[RunSpec]]) -> pandas.DataFrame:
    """The stored results, one row a run and metric, see `hybrid.claims.rules.contrasts`. Nothing is trained.

    "suite", "needle" and the groups of the suite are means over those of their tasks that full attention has
    learnt at the training length, every seed to `LEARNT`; over all of them where it has learnt none. The
    column ``tasks`` says how many of how many. Where both arms are read, the matched one says what is learnt.

    Args:
        specs: arm ("matched" or "published") -> its runs, all of one task.

    Raises ``ValueError`` when there is no run.
    """
    import pandas

    from hybrid.data.floors import recall_floor
    from hybrid.runs import runner

    if not any(specs.values()):
        raise ValueError("no run to observe")
    scalars, tasks = [], []
    for arm, of_arm in specs.items():
        task = of_arm[0].task
        found = _placed(runner.collect(of_arm, minutes=0, progress=False), arm)
        chance = {"recall": _over_loads(task, lambda pairs: 1 / pairs)}
        floor = {"recall": _over_loads(task, partial(recall_floor, task.home))}
        for metric in SCALARS:
            value = found[metric] if metric in found else float("nan")
            seen = found[PLACE].assign(
                metric=metric, value=value, chance=chance.get(metric), floor=floor.get(metric), tasks=""
            )
            scalars.append(seen.astype({"chance": float, "floor": float}))
        if task.has_suite and (found["status"] == "done").any():
            detail = _placed(runner.detail(of_arm, "suite_by"), arm)
            tasks.append(detail[detail["length"] == task.home].reindex(columns=[*PLACE, *TASK]))
    scalars = pandas.concat(scalars, ignore_index=True)
    measured = pandas.concat(tasks) if tasks else pandas.DataFrame(columns=[*PLACE, *TASK])
    arm = "matched" if "matched" in specs else "published"
    return pandas.concat([scalars, _suite(measured, scalars, arm)], ignore_index=True)


def _suite(tasks: pandas.DataFrame, runs: pandas.DataFrame, arm: str) -> pandas.DataFrame:
    """Observations of the suite and its groups, a row for every run, the missing ones too."""
    import pandas

    from hybrid.data.suite import NEEDLES, TASKS

    groups = {"suite": list(TASKS), "needle": list(NEEDLES)}
    for name, task in TASKS.items():
        groups.setdefault(task.group, []).append(name)
    full = tasks[(tasks["arm"] == arm) & (tasks["mixer"] == "full")]
    lowest = full.groupby("task")["accuracy"].min()
    learnt = set(lowest.index[lowest >= LEARNT])
    every = runs[PLACE].drop_duplicates(["arm", "run_id"])
    parts = []
    for metric, names in groups.items():
        counted = [name for name in names if name in learnt]
        some = tasks[tasks["task"].isin(counted or names)]
        means = some.groupby("run_id")["accuracy"].mean()
        parts.append(
            every.assign(
                metric=metric,
                value=every["run_id"].map(means),
                chance=some["chance"].mean(),
                floor=some["floor"].fillna(some["chance"]).mean(),
                tasks=f"{len(counted)} of {len(names)}" if counted else "",
            )
        )
    return pandas.concat(parts)


def _placed(frame: pandas.DataFrame, arm: str) -> pandas.DataFrame:
    """The runs with their arm and ratio label; the mixer of full attention is "full"."""
    from hybrid.studies import grid

    labels = {depth: grid.ratio_labels(int(depth)) for depth in frame["depth"].unique()}
    label = [labels[depth][layout] for depth, layout in zip(frame["depth"], frame["layout"], strict=True)]
    full = frame["full_blocks"] == frame["depth"]
    return frame.assign(arm=arm, mixer=frame["mixer"].mask(full, "full"), label=label)


def _over_loads(task: TaskConfig, accuracy: Callable[[int], float]) -> float:
    """An accuracy at a number of pairs, averaged as the metric "recall" is."""
    loads = [pairs for pairs in task.eval_pairs if 4 * pairs <= task.home]
    trained = [pairs for pairs in loads if pairs in task.pairs] or loads
    return sum(map(accuracy, trained)) / len(trained)
