"""Tables of observations with a known truth, as `hybrid.claims.rules` reads them."""

import itertools
import math

import pandas as pd

from hybrid.papers.published import paper_mixers

MIXERS = paper_mixers()

BLOCKS = {"pure": 0, "6:1": 1, "3:1": 2, "2:1": 3, "full": 6}


def noise(seed: int, *place) -> float:
    """Small, and different in every cell; sums to zero over three seeds."""
    return ((-1, 0, 1)[seed % 3]) * 0.001 * (1 + sum(map(ord, "".join(map(str, place)))) % 3)


def runs(
    value,
    *,
    metric="recall",
    chance=0.1,
    arms=("matched",),
    mixers=MIXERS,
    seeds=(0, 1, 2),
    full=0.98,
    counter=None,
):
    """Observations of a whole grid.

    Args:
        value: value(mixer, share of full blocks, arm) of the models with linear blocks.
        full: value of full attention, or full(arm).
        counter: of text, whose values are then losses; without it the metric is a task.
    """
    rows = []
    cells = [(m, label) for m, label in itertools.product(mixers, BLOCKS) if label != "full"]
    for arm, (mixer, label), seed in itertools.product(arms, [*cells, ("full", "full")], seeds):
        blocks = BLOCKS[label]
        linear = mixer != "full"
        mean = value(mixer, blocks / 6, arm) if linear else full(arm) if callable(full) else full
        place = {"metric": metric, "arm": arm, "mixer": mixer, "label": label, "full_blocks": blocks}
        rows.append(
            place
            | {"depth": 6, "seed": seed, "value": mean + noise(seed, mixer, label, arm), "chance": chance}
        )
    table = pd.DataFrame(rows)
    return table if counter is None else table.assign(chance=math.nan, bits=table["value"], counter=counter)
