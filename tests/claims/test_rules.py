"""Every rule finds a planted effect, refuses a planted null and says what it cannot decide."""

import math

import numpy as np
import pandas as pd
import pytest
from planted import runs

from hybrid.claims import rules
from hybrid.papers.published import paper_mixers

MIXERS = paper_mixers()

SUPPORTED, NOT, OPEN = rules.SUPPORTED, rules.NOT_SUPPORTED, rules.INCONCLUSIVE
MORE = dict.fromkeys(("hgrn2", "gla", "deltanet", "gated_deltanet"), 0.2)


def rising(mixer, share, arm):
    return 0.3 + 0.8 * share


def flat(mixer, share, arm):
    return 0.5


def by_mixer(mixer, share, arm):
    return 0.3 + 0.3 * share + MORE.get(mixer, 0)


def saturating(mixer, share, arm):
    return 0.3 + 1.5 * min(share, 1 / 3)


def same_order(mixer, share, arm):
    return 0.2 + 0.1 * MIXERS.index(mixer) + 0.1 * share


def other_order(mixer, share, arm):
    rank = MIXERS.index(mixer)
    return 0.2 + 0.1 * (rank if share == 0 else (rank * 3 + 1) % 7)


def convolved(mixer, share, arm):
    return 0.3 + 0.4 * (arm == "matched" or "deltanet" in mixer)


def rule(name, metric="recall", **parameters):
    return rules.build(name, {"metric": metric} | parameters)


def between(first, second, relation="above", **parameters):
    sides = {"first": {"layouts": first}, "second": {"layouts": second}}
    return rule("difference", relation=relation, **sides, **parameters)


HELPS = rule(
    "difference",
    first={"mixers": ["gla"]},
    second={"mixers": ["retnet"]},
    relation="above",
    margin=0,
)
DOUBLE = rule(
    "difference",
    first={"layouts": "3:1"},
    second={"layouts": "pure"},
    factor=1.75,
    relation="above",
    margin=0,
)
SAME = rule("difference", first={"layouts": "3:1"}, second={"layouts": "6:1"}, relation="within", margin=0.05)
REACHES = rule(
    "difference", first={"layouts": "3:1"}, second={"layouts": "full"}, relation="above", margin=-0.02
)
EXCEEDS = rule("against_full", layouts="3:1", relation="above", margin=0, count="most")
BELOW = rule("against_full", layouts="hybrids", relation="below", margin=-0.02, count="every")
RISES, RISES_ALL = rule("rises", margin=0), rule("rises", margin=0, count="every")
STEADY = rule("steady", layouts="linear", margin=0.02)
FLAT = rule("flat", layouts="linear", margin=0.05)
SATURATES = rule("saturates", at="3:1", margin=0.05)
UNRELATED = rule("rank_unrelated", layouts="hybrids")
NEAR = rule("near_chance", mixers=["retnet"], layouts="hybrids")
SHORT = rule(
    "interaction",
    first={"mixers": ["deltanet", "gated_deltanet"]},
    second={"mixers": ["retnet", "gla"]},
    places=[{"arm": "published"}, {"arm": "matched"}],
    relation="above",
    margin=0,
)
BOTH = ("matched", "published")


@pytest.mark.parametrize(
    ("one", "planted", "verdict"),
    [
        (HELPS, runs(by_mixer), SUPPORTED),
        (HELPS, runs(lambda m, s, a: 0.8 - by_mixer(m, s, a) / 2), NOT),
        (DOUBLE, runs(rising), SUPPORTED),
        (DOUBLE, runs(flat), NOT),
        (SAME, runs(flat), SUPPORTED),
        (SAME, runs(rising), NOT),
        (REACHES, runs(lambda m, s, a: 0.98), SUPPORTED),
        (REACHES, runs(flat), NOT),
        (EXCEEDS, runs(lambda m, s, a: 0.99 if m in MORE else 0.9, full=0.96), SUPPORTED),
        (EXCEEDS, runs(lambda m, s, a: 0.99 if m == "gla" else 0.9, full=0.96), NOT),
        (BELOW, runs(flat), SUPPORTED),
        (BELOW, runs(lambda m, s, a: 0.98 if m == "hgrn" and s == 0.5 else 0.5), NOT),
        (RISES, runs(rising), SUPPORTED),
        (RISES, runs(lambda m, s, a: 0.9 - s), NOT),
        (RISES_ALL, runs(rising), SUPPORTED),
        (RISES_ALL, runs(lambda m, s, a: 0.5 - s / 2 if m == "hgrn" else 0.3 + s), NOT),
        (STEADY, runs(rising), SUPPORTED),
        (STEADY, runs(lambda m, s, a: 0.3 if s == 1 / 3 else 0.5), NOT),
        (FLAT, runs(flat), SUPPORTED),
        (FLAT, runs(rising), NOT),
        (SATURATES, runs(saturating), SUPPORTED),
        (SATURATES, runs(rising), NOT),
        (SATURATES, runs(flat), NOT),
        (UNRELATED, runs(other_order), SUPPORTED),
        (UNRELATED, runs(same_order), NOT),
        (NEAR, runs(lambda m, s, a: 0.1), SUPPORTED),
        (NEAR, runs(flat), NOT),
        (SHORT, runs(convolved, arms=BOTH), SUPPORTED),
        (SHORT, runs(by_mixer, arms=BOTH), NOT),
        (rule("learnt"), runs(flat), SUPPORTED),
        (rule("learnt"), runs(flat, full=0.9), NOT),
    ],
)
def test_planted_truths_are_found(one, planted, verdict):
    found = one(planted)
    assert (found.verdict, found.n) == (verdict, 3)
    assert "n = 3" in found.evidence
    shuffled = planted.sample(frac=1, random_state=1)
    assert one(shuffled) == found, "the order of rows changes nothing"


EVERY = [
    HELPS,
    DOUBLE,
    SAME,
    REACHES,
    EXCEEDS,
    BELOW,
    RISES,
    RISES_ALL,
    STEADY,
    FLAT,
    SATURATES,
    UNRELATED,
    NEAR,
    SHORT,
]


@pytest.mark.parametrize("one", EVERY, ids=lambda one: type(one).__name__)
def test_an_undertrained_baseline_decides_nothing(one):
    for planted in (runs(rising, arms=BOTH, full=0.9), runs(flat, arms=BOTH, full=0.9)):
        one_bad_seed = planted.copy()
        good = (planted["mixer"] == "full") & (planted["seed"] != 0)
        one_bad_seed.loc[good, "value"] = 0.99
        for table in (planted, one_bad_seed):
            found = one(table)
            assert found.verdict == OPEN and found.reason.startswith("baseline undertrained: lowest recall")


@pytest.mark.parametrize("one", EVERY, ids=lambda one: type(one).__name__)
def test_missing_seeds_are_named(one):
    planted = runs(rising, arms=BOTH)
    planted.loc[(planted["seed"] == 1) & (planted["mixer"] != "full"), "value"] = math.nan
    found = one(planted)
    assert found.verdict == OPEN and "2 paired seeds, 3 needed; missing: seed 1 of " in found.reason


def test_a_missing_row_is_a_missing_seed():
    planted = runs(rising)
    gone = (planted["seed"] == 2) & (planted["mixer"] == "gla") & (planted["label"] == "3:1")
    found = SAME(planted[~gone])
    assert found.reason == "2 paired seeds, 3 needed; missing: seed 2 of GLA 3:1"


def test_with_enough_other_seeds_a_missing_one_is_told_and_decides():
    planted = runs(rising, seeds=range(4))
    planted.loc[(planted["seed"] == 3) & (planted["label"] == "6:1"), "value"] = math.nan
    found = RISES(planted)
    assert (found.verdict, found.n) == (SUPPORTED, 3) and "missing: seed 3 of DeltaNet 6:1" in found.reason


def test_no_finished_run_of_full_attention_decides_nothing():
    planted = runs(rising)
    planted.loc[planted["mixer"] == "full", "value"] = math.nan
    assert "baseline unknown" in RISES(planted).reason


def test_a_loss_needs_no_baseline_that_learnt():
    planted = runs(lambda m, s, a: 2.0 - s, metric="loss", chance=math.nan, full=2.5)
    assert rule("flat", "loss", layouts="linear", margin=0.05)(planted).verdict == NOT
    best = rule("against_full", "loss", layouts="linear", relation="above", margin=0, count="every")
    some = rule("against_full", "loss", layouts="hybrids", relation="below", margin=0, count="some")
    assert best(planted).verdict == NOT and some(planted).verdict == SUPPORTED
    worse = planted.assign(value=planted["value"].where(planted["mixer"] == "full", 3.0))
    assert best(worse).verdict == SUPPORTED and some(worse).verdict == NOT


def test_a_mixer_near_chance_is_left_out_of_a_mean_by_name():
    planted = runs(lambda m, s, a: 0.1 if m == "hgrn2" else 0.3 + 0.8 * s)
    found = SAME(planted)
    assert found.reason == "left out, near chance: HGRN-2"
    assert found.evidence == SAME(runs(rising, mixers=[m for m in MIXERS if m != "hgrn2"])).evidence
    alone = rule("rises", margin=0, mixers=["hgrn2"])(planted)
    assert alone.verdict == OPEN and alone.reason == "still near chance: HGRN-2"
    every = RISES_ALL(planted)
    assert every.verdict == OPEN and "HGRN-2: still near chance" in every.reason


def test_mixers_are_compared_where_one_of_them_left_chance():
    assert HELPS(runs(lambda m, s, a: 0.6 if m == "gla" else 0.1)).verdict == SUPPORTED
    assert HELPS(runs(lambda m, s, a: 0.1)).reason == "still near chance: GLA, RetNet"


def test_a_chance_near_zero_is_not_left_by_half_of_itself():
    assert "near chance" in RISES(runs(lambda m, s, a: 0.04 + 0.01 * s, chance=0.01)).reason


def test_a_chance_near_one_can_be_left():
    planted = runs(lambda m, s, a: 0.9 + 0.1 * s, chance=0.78)
    assert RISES(planted).verdict == SUPPORTED
    assert "near chance" in RISES(runs(lambda m, s, a: 0.8 + 0.1 * s, chance=0.78)).reason


def test_a_rule_that_skips_the_task_counts_where_it_beats_guessing():
    """0.5 at best is clear of a chance of 0.1 and near a floor of 0.4, whose limit is 0.6."""
    planted = runs(lambda m, s, a: 0.3 + 0.3 * s, chance=0.1)
    assert RISES(planted).verdict == SUPPORTED
    assert "near chance" in RISES(planted.assign(floor=0.4)).reason
    for low in (math.nan, 0.05):
        assert RISES(planted.assign(floor=low)).verdict == SUPPORTED
    near = NEAR(runs(lambda m, s, a: 0.5, chance=0.1).assign(floor=0.4))
    assert near.verdict == SUPPORTED and NEAR(runs(lambda m, s, a: 0.5, chance=0.1)).verdict == NOT


def test_a_ratio_is_that_of_the_mixers_that_are_compared():
    planted = runs(lambda m, s, a: 0.1 if m == "hgrn2" else 0.2 + 1.2 * s)
    rest = [m for m in MIXERS if m != "hgrn2"]
    found = DOUBLE(planted)
    assert found.reason == "left out, near chance: HGRN-2"
    assert found.evidence == DOUBLE(runs(lambda m, s, a: 0.2 + 1.2 * s, mixers=rest)).evidence


def test_what_no_model_could_reach_is_not_decided():
    crowded = runs(lambda m, s, a: 0.7, full=0.99)
    assert "no room" in DOUBLE(crowded).reason and DOUBLE(crowded).verdict == OPEN
    two_points = rule("against_full", layouts="hybrids", relation="above", margin=0.02, count="some")
    assert "no room" in two_points(crowded).reason
    roomy = runs(lambda m, s, a: 0.7, full=0.96)
    assert two_points(roomy).verdict == NOT


def test_a_baseline_that_fails_without_the_convolution_is_a_result():
    full = rule(
        "difference",
        first={"layouts": "full", "arm": "matched"},
        second={"layouts": "full", "arm": "published"},
        relation="above",
        margin=0,
    )
    assert (
        full(runs(flat, arms=BOTH, full=lambda arm: 0.98 if arm == "matched" else 0.4)).verdict == SUPPORTED
    )


def test_saturation_needs_a_layout_beyond():
    planted = runs(saturating)
    found = SATURATES(planted[planted["label"] != "2:1"])
    assert found.verdict == OPEN and "no layout denser than 3:1" in found.reason


def test_a_layout_that_the_scale_lacks_is_named():
    missing = rule(
        "difference", first={"layouts": "12:1"}, second={"layouts": "pure"}, relation="above", margin=0
    )
    assert missing(runs(rising)).reason == "no run of all mixers at 12:1 (recall, matched arm) at this scale"


def test_three_mixers_are_too_few_to_rank():
    assert "3 mixers to rank, 4 needed" in UNRELATED(runs(same_order, mixers=MIXERS[3:])).reason


def test_two_runs_of_a_seed_in_one_cell_are_refused():
    planted = runs(rising)
    with pytest.raises(ValueError, match="several runs of one seed"):
        RISES(pd.concat([planted, planted]))


def test_the_fitted_gain_is_that_of_numpy():
    planted = runs(lambda m, s, a: 0.3 + s**2)
    linear = planted[planted["mixer"] != "full"]
    x, y = linear["full_blocks"] / 6, linear["value"]
    gain = np.polyfit(x, y, 1)[0] * x.max()
    assert RISES(planted).evidence.startswith(f"{gain:+.3f} [")


def test_the_ratio_is_reported():
    assert "ratio 1.89 [" in DOUBLE(runs(rising)).evidence  # (0.3 + 0.8 / 3) / 0.3


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
def test_the_names_of_seeds_change_nothing(order):
    planted = runs(by_mixer)
    moved = planted.assign(seed=planted["seed"].map(dict(enumerate(order))))
    assert HELPS(moved) == HELPS(planted) and FLAT(moved) == FLAT(planted)
