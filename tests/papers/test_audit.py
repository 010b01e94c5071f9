"""The audit of the paper's arithmetic, against checks that were made by hand beforehand."""

import re
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.config import MIXERS as REGISTERED
from hybrid.config.layout import Layout
from hybrid.papers import audit, audit_text, published
from hybrid.papers.published import paper_mixers

MIXERS = paper_mixers()
PASSES = {name: REGISTERED[name].flops_per_element for name in MIXERS}

WITNESS = published.table("arithmetic_checks")
OWN_WORDS = {
    "Tables 2, 3 and 4": "Table 4",
    "Tables 5 and 6": "Table 5",
}
"""Where the witness names all tables that a check needs, and the audit the one that prints the number."""


def test_every_check_made_by_hand_is_found_again():
    by_hand = {
        (OWN_WORDS.get(table, table), row.removeprefix("ratio "), printed, f"{again:.5f}", agrees == "yes")
        for table, row, printed, again, agrees in WITNESS[
            ["table", "row", "printed", "recomputed", "agrees_within_rounding"]
        ].itertuples(index=False)
    }
    by_code = {
        (c.table, c.row, c.printed, f"{Decimal(str(c.recomputed)).quantize(Decimal('0.00001'))}", c.agrees)
        for c in audit.checks(PASSES).query("kind != 'count'").itertuples()
    }
    assert len(WITNESS) == len(by_hand) == 41
    assert by_code == by_hand


def test_the_witness_is_not_read():
    """The audit and its readers never open the file that they are compared with, nor recomputed rows."""
    source = "".join(Path(module.__file__).read_text() for module in (audit, audit_text, published))
    assert "arithmetic_checks" not in source and "what_the_tables_give" not in source
    assert all("recomputed" not in str(v) for n in published.AVERAGED for v in published.digits(n)["over"])


def test_what_table_4_implies_for_the_other_scale():
    ours = audit.implied_other_scale().set_index(["mixer", "ratio", "scale"])["implied"]
    by_hand = published.table("implied_other_scale_lm").set_index(["mixer", "ratio", "implied_model_scale"])
    assert len(ours) == len(by_hand) == 6
    assert ours.round(9).to_dict() == by_hand["implied_lm_average"].to_dict()


def test_the_transformer_row_of_table_6():
    """Printed 0.423; the mean of its 13 tasks is 0.390 and needs a single-needle entry of 0.703."""
    means = audit.ruler_means().set_index("row")
    assert means.loc["transformer full", "printed"] == 0.423
    assert means.loc["transformer full", "13 tasks"] == pytest.approx(
        (3 * 0.332 + 0.464 + 0.472 + 3 * 0.559 + 2 * 0.284 + 2 * 0.412 + 0.066) / 13
    )
    assert round(audit.restoring_entry("transformer full", "singlevalue"), 6) == Decimal("0.703")
    needles = {"deltanet 3:1": 0.5315, "gla 3:1": 0.463375, "gated_deltanet 3:1": 0.5685}
    needles |= {"hgrn2 6:1": 0.50875, "transformer full": 0.451125}
    assert means["8 needles"].to_dict() == pytest.approx(needles)
    with pytest.raises(ValueError, match=r"no entry of row 'retnet 3:1' and group 'qa'"):
        audit.restoring_entry("retnet 3:1", "qa")


def test_only_the_kind_of_check_decides_what_must_agree():
    """All averages agree but one; no other weighting does; Table 4 lies below Tables 2 and 3."""
    checks = audit.checks(PASSES)
    assert checks["id"].is_unique
    share = checks.groupby("kind")["agrees"].agg(["sum", "size"])
    assert share.loc["average"].tolist() == [28, 29]
    assert share.loc["other weighting"].tolist() == [0, 5]
    below = checks[checks["table"] == "Table 4"].query("kind == 'between tables'")["difference"]
    assert len(below) == 3 and (below < -0.016).all()


@pytest.mark.parametrize("ratio", audit.RATIOS)
def test_cache_factors_are_those_of_layouts(ratio):
    r = int(ratio.partition(":")[0])
    assert (audit.cache_factor(ratio, "period"), audit.cache_factor(ratio, "literal")) == (r, r + 1)
    assert audit.cache_factor(ratio, "period") == 24 / len(Layout.from_ratio(ratio, 24).full)


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_a_number_agrees_with_its_rounding_and_with_nothing_further_away(units, places):
    value = Decimal(units).scaleb(-6)
    step = Decimal(1).scaleb(-places)
    for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN):
        assert audit.agrees(value.quantize(step, rounding), value)
    assert not audit.agrees(value.quantize(step, ROUND_FLOOR) - step, value)
    assert not audit.agrees(value.quantize(step, ROUND_FLOOR) + 2 * step, value)


VERDICTS = {
    "partly": {"agrees in one reading"},
    "not_checkable": {"cannot be checked", "agrees in one reading"},
    "not_supported": {"cannot be checked", "differs"},
    "suspect": {"cannot be checked"},
    "depends_on_convention": {"agrees in one reading"},
    "true_for_average_only": {"agrees in one reading"},
    "inconsistent_between_versions": {"differs"},
    "internally_inconsistent": {"agrees in one reading"},
}
"""What a verdict given by hand on the letter of a sentence admits once its kindest reading counts."""


def test_no_sentence_is_judged_more_kindly_than_its_evidence():
    by_hand = published.table("claims_vs_tables").set_index("id")["verdict"]
    ours = audit_text.sentences().set_index("id")
    assert len(by_hand) == 23 and list(by_hand.index) == list(ours.index)
    for name, verdict in by_hand.items():
        if verdict.startswith("contradicts"):
            assert ours.loc[name, "verdict"] in {"differs", "agrees in one reading"}, name
        else:
            assert ours.loc[name, "verdict"] in VERDICTS[verdict], name
    assert not (ours["verdict"] == "agrees").any()
    kind = ours[ours["verdict"] == "agrees in one reading"]
    assert (kind["reading"].str.len() > 10).all() and (ours["evidence"].str.len() > 10).all()


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("hgrn2_leads_340m", "1.2 1.4"),
        ("gdn_best_standalone_340m", "0.487 0.486"),
        ("lm_cluster", "0.459 0.494 0.547 0.565"),
        ("approach_transformer", "0.426 0.436 0.395 0.332"),
        ("two_to_five_points", "0.423 1.7 1.1 0.390 5.0 4.4"),
        ("lm_flat", "0.8 1.9 2.9 0.6 0.4"),
        ("recall_saturates", "8.2 0.2 5.0 0.7"),
        ("nearly_doubles", "0.338 0.397 1.17 1.30 1.28 1.13 1.02"),
        ("lm_loss_shift", "0.3"),
        ("cache_four_to_seven", "4 7 3 6"),
        ("seventy_two_models", "31 62"),
        ("transformer_on_front", "0.496 0.5105 0.5035"),
        ("batch_340m", "400,000"),
        ("context_window", "2048 4096"),
    ],
)
def test_the_evidence_of_a_sentence_holds_the_numbers_found_by_hand(name, numbers):
    evidence = audit_text.sentences().set_index("id").loc[name, "evidence"]
    assert set(numbers.split()) <= set(re.findall(r"\d+(?:[.,]\d+)*", evidence))


def test_a_verdict_follows_from_the_two_readings():
    verdict = {
        (holds, kindly): audit_text.Reading(holds, kindly, "").verdict
        for holds in (True, False, None)
        for kindly in (True, False, None)
    }
    assert {v for (holds, _), v in verdict.items() if holds} == {"agrees"}
    assert verdict[False, True] == verdict[None, True] == "agrees in one reading"
    assert verdict[False, False] == verdict[False, None] == "differs"
    assert verdict[None, None] == verdict[None, False] == "cannot be checked"


@pytest.mark.parametrize("name", sorted(path.stem for path in published.FOLDER.glob("*.csv")))
def test_every_printed_value_says_where_it_is_printed(name):
    frame = published.table(name)
    assert frame[["paper", "version", "table"]].notna().all(axis=None)
    assert frame["paper"].str.fullmatch(r"arXiv:\d{4}\.\d{5}").all()


@pytest.mark.parametrize("number", published.AVERAGED)
def test_digits_are_those_of_the_file(number):
    name, value, _ = published.AVERAGED[number]
    frame = published.digits(number)
    file = published.table(name).query("value_kind in ['entry', 'printed_average']")
    assert frame["value"].astype(float).tolist() == file[value].tolist()
    assert {v.as_tuple().exponent for v in frame["value"]} == {-3}
    assert set(frame["mixer"]) - {"transformer", "average_of_six_mixers", "average_of_four_mixers"} <= set(
        MIXERS
    )


def test_a_table_without_averages_is_refused():
    with pytest.raises(ValueError, match="no averages in table 7; there are: 2, 3, 4, 5, 6"):
        published.digits(7)
    assert isinstance(published.table("ruler_tasks"), pd.DataFrame)


def test_the_paper_has_its_six_mixers_however_many_the_book_has(monkeypatch):
    """Readings of the paper's text counted the mixers of the package: a seventh broke them all."""
    before = audit_text.sentences()
    monkeypatch.setattr(REGISTERED, "classes", REGISTERED._load() | {"one_more": REGISTERED["gla"]})
    after = audit_text.sentences()
    assert len(REGISTERED) > len(MIXERS)
    assert MIXERS == (
        "hgrn",
        "retnet",
        "gla",
        "hgrn2",
        "deltanet",
        "gated_deltanet",
    )
    pd.testing.assert_frame_equal(before, after)
