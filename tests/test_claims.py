"""Verdicts follow their rule on planted numbers."""

import pandas as pd
import pytest

from hybrid.claims import Verdict, baseline_learnt, decide, left_chance, paired, subject_to, table


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.30, 0.31, 0.32], "supported"),
        ([-0.30, -0.31, -0.32], "not supported"),
        ([0.0, 0.0, 0.0], "not supported"),
        ([0.3, -0.2, 0.1], "inconclusive"),
        ([0.3, 0.3], "inconclusive"),
    ],
)
def test_decide(differences, verdict):
    assert decide("a is above b", differences).verdict == verdict


def test_evidence_holds_mean_interval_and_n():
    # Student's t with 2 degrees of freedom: 4.3027 * 0.1 / sqrt(3) = 0.2484.
    assert decide("x", [0.1, 0.2, 0.3]).evidence == "+0.200 [-0.048, +0.448], n = 3"


def frame() -> pd.DataFrame:
    rows = [("done", 0, "F", 0.9), ("done", 1, "F", 0.8), ("done", 1, "L", 0.5), ("done", 0, "L", 0.3)]
    rows += [("failed", 2, "F", float("nan")), ("done", 2, "L", 0.4)]
    return pd.DataFrame(rows, columns=["status", "seed", "layout", "recall"])


def test_pairs_are_seeds_that_both_sides_finished():
    assert paired(frame(), "recall", {"layout": "F"}, {"layout": "L"}) == pytest.approx([0.6, 0.3])


def test_several_runs_of_a_seed_are_refused():
    with pytest.raises(ValueError, match="does not name one run a seed"):
        paired(frame(), "recall", {"status": "done"}, {"layout": "L"})


def test_undertrained_baseline_makes_every_verdict_inconclusive():
    full = frame()[frame()["layout"] == "F"]
    baseline = baseline_learnt(full)
    assert baseline.verdict == "not supported"
    good = Verdict("s", "supported", "e")
    held_back = subject_to(baseline, "baseline undertrained", good)
    assert held_back == Verdict(
        "s", "inconclusive", f"baseline undertrained ({baseline.evidence}); measured e"
    )
    learnt = baseline_learnt(full.assign(recall=0.97))
    assert subject_to(learnt, "baseline undertrained", good) == good
    assert list(table([good]).iloc[0]) == ["s", "supported", "e"]


def test_a_mixer_counts_once_one_of_its_layouts_has_left_chance():
    # Layout F: mean 0.85 of its two finished seeds; L: mean 0.4 of three.
    assert left_chance(frame(), 0.5).verdict == "supported"
    assert left_chance(frame(), 0.6).verdict == "not supported"
    assert left_chance(frame()[frame()["layout"] == "L"], 0.25).verdict == "supported"
    assert left_chance(frame().iloc[:0], 0.25).verdict == "inconclusive"
