"""What claims about layer selection read, and the rule that adds it up: planted stores, planted answers."""

from itertools import combinations

import pandas as pd
import pytest

from hybrid.claims import rules
from hybrid.claims import selection as observations
from hybrid.claims.rules.choices import Choices
from hybrid.config.layout import Layout
from hybrid.runs.store import Result, Store
from hybrid.studies import selection
from hybrid.studies import selection_scales as scales


def table(rows, metric="passkey"):
    return pd.DataFrame(
        [("selection", name, at, seed, metric, value) for name, at, seed, value in rows],
        columns=observations.COLUMNS,
    )


def choices(**changes):
    given = {"study": "selection", "terms": [[1, ["a"], "passkey"], [-1, ["b", "c"], "passkey"]], "at": [0.5]}
    return rules.build("choices", given | changes)


def seeds(name, values, at=0.5):
    return [(name, at, seed, value) for seed, value in enumerate(values)]


def test_a_difference_is_the_mean_over_names_paired_by_seed():
    rows = seeds("a", [0.9, 0.8, 1.0]) + seeds("b", [0.2, 0.1, 0.3]) + seeds("c", [0.4, 0.3, 0.5])
    verdict = choices()(table(rows))
    # a - (b + c) / 2 is 0.6 for every seed.
    assert verdict.verdict == rules.SUPPORTED and "+0.600 [+0.600, +0.600], n = 3" in verdict.evidence
    assert choices(kind="below")(table(rows)).verdict == rules.NOT_SUPPORTED


def test_intervals_of_shares_end_where_shares_do():
    rows = seeds("a", [1.0, 0.3, 1.0]) + seeds("b", [0.0] * 3) + seeds("c", [0.0] * 3)
    # The mean is 0.767, and Student's interval would end at 1.77; of a loss it does.
    assert "+0.767 [-0.237, +1.000]" in choices()(table(rows)).evidence
    losses = choices(terms=[[1, ["a"], "loss"], [-1, ["b", "c"], "loss"]])
    assert "+0.767 [-0.237, +1.771]" in losses(table(rows, "loss")).evidence


def test_a_lead_over_what_is_perfect_has_no_room():
    rows = seeds("a", [0.9, 0.8, 1.0]) + seeds("b", [1.0] * 3) + seeds("c", [1.0] * 3)
    verdict = choices()(table(rows))
    assert (verdict.verdict, verdict.n) == (rules.INCONCLUSIVE, 0)
    assert verdict.reason == "at 0.5 no room: beside the other side at most +0.000 is possible"


def test_what_was_not_there_cannot_be_lost():
    """Half of a lead before less the lead after: positive where more than half is lost, or where none was."""
    terms = [[0.5, ["a"], "loss before"], [-1, ["a"], "loss after"]]
    erased = choices(terms=terms, given=[[1, ["a"], "loss before"]])
    after = table(seeds("a", [0.1, 0.11, 0.12]), "loss after")
    lead = table(seeds("a", [0.5, 0.6, 0.7]), "loss before")
    assert erased(pd.concat([lead, after])).verdict == rules.SUPPORTED
    none = table(seeds("a", [-0.1, 0.0, 0.1]), "loss before")
    behind = table(seeds("a", [-0.3, -0.31, -0.32]), "loss after")
    assert choices(terms=terms)(pd.concat([none, behind])).verdict == rules.SUPPORTED
    verdict = erased(pd.concat([none, behind]))
    assert (verdict.verdict, verdict.n) == (rules.INCONCLUSIVE, 0)
    assert verdict.reason == "at 0.5: +1 loss before of a is not shown to be above 0"
    assert erased(lead).reason == "at 0.5: needs 3 paired seeds; has 0"
    assert "each of 0.5, where +1 loss before of a is above 0; paired" in erased.words()


def test_a_seed_that_one_term_lacks_does_not_count():
    rows = seeds("a", [0.9, 0.8, 1.0]) + seeds("b", [0.2, 0.1]) + seeds("c", [0.4, 0.3, 0.5])
    verdict = choices()(table(rows))
    assert (verdict.verdict, verdict.n) == (rules.INCONCLUSIVE, 0)
    assert verdict.reason == "at 0.5: needs 3 paired seeds; has 2"


def test_a_term_may_stand_at_another_share():
    rows = seeds("a", [1.0, 1.1, 1.2], 0.25) + seeds("a", [0.5, 0.6, 0.7], 0.5)
    rule = choices(terms=[[1, ["a"], "passkey"], [-1, ["a"], "passkey", 0.5]], at=[0.25])
    assert "+0.500 [+0.500, +0.500]" in rule(table(rows)).evidence


def test_every_share_must_hold_or_only_most():
    high, low = [0.9, 0.91, 0.92], [0.1, 0.11, 0.12]
    rows = []
    for at, (a, b) in {0.1: (high, low), 0.2: (high, low), 0.3: (low, high)}.items():
        rows += seeds("a", a, at) + seeds("b", b, at) + seeds("c", b, at)
    assert choices(at=[0.1, 0.2, 0.3])(table(rows)).verdict == rules.NOT_SUPPORTED
    assert choices(at=[0.1, 0.2, 0.3], count="most")(table(rows)).verdict == rules.SUPPORTED


def test_an_untaught_teacher_decides_nothing():
    rows = seeds("a", [1.0] * 3) + seeds("b", [0.0] * 3) + seeds("c", [0.0] * 3)
    untaught = table([("the teacher reads 0.40 of its passkeys", 0.0, 0, 0.4)], "untaught")
    verdict = choices()(pd.concat([table(rows), untaught]))
    assert verdict.verdict == rules.INCONCLUSIVE
    assert verdict.reason == "baseline undertrained: the teacher reads 0.40 of its passkeys"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": "grid"}, "unknown study 'grid'; allowed: selection, consa"),
        ({"at": []}, "at least one term and one share"),
        ({"terms": [[1, [], "passkey"]]}, "a term needs the names"),
        ({"kind": "beside"}, "unknown relation 'beside'"),
        ({"count": "many"}, "unknown count 'many'"),
    ],
)
def test_wrong_rules_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        choices(**change)


def test_a_rule_can_be_read():
    words = Choices(
        study="consa", terms=[[1, ["a"], "loss"], [-1, ["b"], "loss", 0.5]], at=[0.25], kind="below"
    )
    assert words.words() == (
        "consa: +1 loss of a -1 loss of b at 0.5 is below 0 at each of 0.25; paired by seed"
    )


@pytest.mark.parametrize(
    ("one", "other", "overlap"), [("FFLL", "FFLL", 1.0), ("FFLL", "LLFF", 0.0), ("FFFL", "LFFF", 0.5)]
)
def test_jaccard(one, other, overlap):
    assert (
        observations.jaccard(one, other) == overlap == observations.overlaps({"x": one, "y": other})["x", "y"]
    )


@pytest.mark.parametrize(
    ("full", "lead"), [([0, 0, 1, 1, 0, 0], 1.0), ([1, 0, 0, 0.5], -1.0), ([1] * 8, 0.0)]
)
def test_middle_against_bottom(full, lead):
    assert observations.middle(full) == lead


def test_names_and_shares_of_the_claims_exist():
    from hybrid.claims import verdicts

    known = {
        "selection": set(selection.selections("laptop")),
        "consa": {*selection.masks("laptop"), "FlashMorph's blocks"},
    }
    shares = {"selection": {0.0, *scales.SHARES}, "consa": set(selection.CHEAP_SHARES)}
    rules_ = [claim.rule for claim in verdicts.registry() if claim.rule.reads == "selection"]
    assert len(rules_) > 15
    for rule in rules_:
        assert {name for term in rule.terms for name in term.names} <= known[rule.study]
        assert {*rule.at, *(term.at for term in rule.terms if term.at is not None)} <= shares[rule.study]


def test_stored_selections_become_observations(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path))
    size, store = scales.selection_scale("laptop"), Store()
    evidence = {"seconds": 8.0}

    def stored(name, seed, chosen, **more):
        spec = selection.selections("laptop")[name][seed]
        rows = [
            {"budget": b, "draw": d, "layout": x} for b, every in chosen.items() for d, x in enumerate(every)
        ]
        metrics = {"layouts": rows, "selection_tokens": 1024, "teacher_passkey": 0.99} | more
        store.write(Result(spec.run_id, spec, "done", "", metrics, [], evidence))
        return spec

    first = {1: ["FLLLLLLL"], 2: ["FFLLLLLL"], 4: ["FFFFLLLL"]}
    other = {1: ["LFLLLLLL"], 2: ["LFFLLLLL"], 4: ["FFFFLLLL"]}
    sets = [
        {"budget": 1, "layout": "FLLLLLLL", "recall": 0.5, "loss_bits_per_byte": 2.0},
        {"budget": 1, "layout": "LFLLLLLL", "recall": 0.9, "loss_bits_per_byte": 2.0},
        {"budget": 1, "layout": "LLFLLLLL", "recall": 0.1, "loss_bits_per_byte": 2.0},
        {"budget": 2, "layout": "FFLLLLLL", "recall": 0.9, "loss_bits_per_byte": 2.0},
        {"budget": 2, "layout": "LFFLLLLL", "recall": 0.9, "loss_bits_per_byte": 2.1},
        {"budget": 4, "layout": "FFFFLLLL", "recall": 0.9, "loss_bits_per_byte": 2.0},
        {"budget": 4, "layout": "LFFFFLLL", "recall": 0.9, "loss_bits_per_byte": 2.0},
    ]
    stored("exhaustive", 0, other, sets=sets)
    spec = stored("FlashMorph", 0, first)
    stored("FlashMorph", 1, other)
    stored("half lambda", 0, first)
    stored("double lambda", 0, other)
    followed = selection.follow_up(size, spec, "FLLLLLLL")
    stages = [
        {"stage": name, "passkey": p, "loss_bits_per_byte": x}
        for name, p, x in (("converted", 0.2, 3.0), ("distill", 0.5, 2.5), ("finetune", 0.75, 2.25))
    ]
    far = [
        {"stage": stage, "length": length, "distance": distance, "accuracy": accuracy, "n": 9}
        for stage, length, distance, accuracy in (
            ("converted", 256, None, 0.0),
            ("finetune", 64, None, 0.75),
            ("finetune", 256, None, 0.375),
            ("finetune", 256, 8, 1.0),
        )
    ]
    metrics = {"stages": stages, "passkey_by": far}
    store.write(Result(followed.run_id, followed, "done", "", metrics, [], evidence))

    seen = observations.observed("laptop")
    mine = seen[(seen["name"] == "FlashMorph") & (seen["seed"] == 0)].set_index(["metric", "at"])["value"]
    small, mid, half = scales.SHARES
    # Of one full block, one of the two other sets is better; of two, none; of four, a tie counts half.
    assert [mine["better", at] for at in (small, mid, half)] == [0.5, 0.0, 0.5]
    assert [mine["overlap seeds", at] for at in (small, mid, half)] == [0.0, pytest.approx(1 / 3), 1.0]
    assert mine["overlap lambda", mid] == pytest.approx((1 + 1 / 3) / 2)
    assert mine["log2 tokens", 0.0] == 10 and mine["log2 seconds", 0.0] == 3
    assert (mine["passkey converted", small], mine["passkey finetune", small]) == (0.2, 0.75)
    assert mine["loss distill", small] == 2.5 and mine["passkey far", small] == 0.375
    assert ("passkey finetune", mid) not in mine and not (seen["metric"] == "untaught").any()


def test_a_miss_is_counted_in_units_and_by_block_where_blocks_have_constraints():
    masks = {
        name: specs for name, specs in selection.masks("laptop").items() if name.startswith("ConSA, heads")
    }
    together, apart = (specs[1] for specs in masks.values())
    assert (together.share, together.shape, apart.scope) == (0.5, (8, 4), "layer")
    # Three blocks of eight are off: by two windows too many, two too few, and one too many.
    windows = [4, 0, 3, 2, 2, 2, 2, 2]
    rows = [{"z": int(head >= count)} for count in windows for head in range(4)]
    assert observations.missed(together, {"masks": rows}) == 1
    assert observations.missed(apart, {"masks": rows}) == 2


@pytest.mark.parametrize(("full", "depth"), [(1, 8), (2, 8), (4, 8), (5, 6), (3, 3)])
def test_overlap_by_chance_is_the_mean_over_all_pairs_of_sets(full, depth):
    sets = [str(Layout.from_full(chosen, depth)) for chosen in combinations(range(depth), full)]
    pairs = [observations.jaccard(one, other) for one in sets for other in sets]
    assert observations.jaccard_by_chance(full, depth) == pytest.approx(sum(pairs) / len(pairs))
