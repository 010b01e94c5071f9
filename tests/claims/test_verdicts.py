"""One comparison, several together, counting, and the refusal of wrong rules."""

import numpy as np
import pytest

from hybrid.claims import rules
from hybrid.claims.rules.contrasts import Contrast
from hybrid.claims.rules.verdicts import Relation, decide, together

SUPPORTED, NOT, OPEN = rules.SUPPORTED, rules.NOT_SUPPORTED, rules.INCONCLUSIVE


@pytest.mark.parametrize(
    ("differences", "margin", "kind", "verdict"),
    [
        ([0.30, 0.31, 0.32], 0, "above", SUPPORTED),
        ([-0.30, -0.31, -0.32], 0, "above", NOT),
        ([0.0, 0.0, 0.0], 0, "above", NOT),
        ([0.3, -0.2, 0.1], 0, "above", OPEN),
        ([0.3, 0.3], 0, "above", OPEN),
        ([-0.30, -0.31, -0.32], 0, "below", SUPPORTED),
        ([0.01, 0.0, -0.01], 0.05, "within", SUPPORTED),
        ([0.1, 0.0, -0.1], 0.05, "within", OPEN),
        ([0.30, 0.31, 0.32], 0.05, "within", NOT),
    ],
)
def test_decide(differences, margin, kind, verdict):
    assert decide(differences, margin, kind).verdict == verdict


def test_evidence_holds_mean_interval_and_n():
    # Student's t with 2 degrees of freedom: 4.3027 * 0.1 / sqrt(3) = 0.2484.
    assert decide([0.1, 0.2, 0.3]).evidence == "+0.200 [-0.048, +0.448], n = 3"


def comparisons(means):
    spread = np.array([-0.01, 0.0, 0.01])
    return [(Contrast(str(i), mean + spread), Relation("above", 0.0)) for i, mean in enumerate(means)]


@pytest.mark.parametrize(
    ("signs", "count", "verdict"),
    [
        ("++++", "every", SUPPORTED),
        ("+++-", "every", NOT),
        ("+++-", "most", SUPPORTED),
        ("++--", "most", NOT),
        ("+---", "some", SUPPORTED),
        ("----", "some", NOT),
        ("+++?", "every", OPEN),
        ("++??", "most", OPEN),
        ("+++?", "most", SUPPORTED),
        ("???-", "every", NOT),
    ],
)
def test_several_comparisons_together(signs, count, verdict):
    assert (
        together(comparisons([{"+": 1.0, "-": -1.0, "?": 0.0}[s] for s in signs]), count).verdict == verdict
    )


@pytest.mark.parametrize(("count", "true"), [("every", 5), ("most", 3), ("some", 0)])
def test_several_comparisons_are_wrong_one_time_in_twenty_at_most(count, true):
    # As many true effects as still leave the sentence false; the others are exactly null.
    rng = np.random.default_rng(0)
    means = np.array([1.0] * true + [0.0] * (6 - true))
    wrong = 0
    for _ in range(200):
        values = means + rng.normal(0, 0.1, (3, 6))
        found = [(Contrast("", v), Relation("above", 0.0)) for v in values.T]
        wrong += together(found, count).verdict == SUPPORTED
    assert wrong / 200 <= 0.05


@pytest.mark.parametrize(
    ("what", "promised", "read", "depth", "verdict"),
    [
        ("saving", {"3:1": 3, "6:1": 6, "12:1": 12, "24:1": 24}, "period", 24, SUPPORTED),
        ("saving", {"3:1": 4, "6:1": 7}, "period", 24, NOT),
        ("saving", {"3:1": 4, "6:1": 7}, "literal", 28, SUPPORTED),
        ("share of full", {"3:1": 0.25}, "period", 24, NOT),
        ("share of full", {"3:1": 0.25}, "literal", 24, SUPPORTED),
        ("linear per full", {"3:1": 3}, "period", 24, NOT),
        ("linear per full", {"3:1": 2, "6:1": 5}, "period", 24, SUPPORTED),
    ],
)
def test_counting(what, promised, read, depth, verdict):
    found = rules.build("counted", {"what": what, "promised": promised, "rule": read, "depth": depth})()
    assert found.verdict == verdict and found.evidence.endswith("exact")


@pytest.mark.parametrize(
    ("name", "parameters", "named"),
    [
        ("guess", {}, "unknown rule 'guess'; allowed: difference"),
        (
            "rises",
            {"metric": "recall", "slope": 1},
            "unknown parameter 'slope' of rule rises",
        ),
        ("rises", {"metric": "recall"}, "rule rises needs 'margin'"),
        ("rises", {"metric": "recall", "margin": 0, "mixers": ["mamba"]}, "unknown mixer 'mamba'"),
        ("rises", {"metric": "recall", "margin": 0, "arm": "left"}, "unknown arm 'left'; allowed: matched"),
        ("rises", {"metric": "recall", "margin": 0, "count": "few"}, "unknown count 'few'; allowed: every"),
        ("flat", {"metric": "loss", "margin": 0, "layouts": "linear"}, "needs a positive margin; got 0"),
        ("near_chance", {"metric": "recall", "layouts": "all"}, "unknown layouts 'all'; allowed: pure"),
        ("counted", {"what": "speed", "promised": {}}, "unknown count 'speed'; allowed: saving"),
        ("counted", {"what": "saving", "promised": {"5:1": 5}}, "5:1 needs a depth divisible by 5"),
        (
            "difference",
            {"metric": "recall", "first": {"where": 1}, "second": {}, "relation": "above", "margin": 0},
            "unknown parameter 'where' of 'first' of rule difference",
        ),
        (
            "difference",
            {"metric": "recall", "first": {}, "second": {}, "relation": "near", "margin": 0},
            "unknown relation 'near'; allowed: above",
        ),
    ],
)
def test_a_wrong_rule_is_refused_by_name(name, parameters, named):
    with pytest.raises(ValueError, match=named):
        rules.build(name, parameters)
