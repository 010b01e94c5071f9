"""The file of claims is checked entry by entry, and claims are decided from the store."""

import math
import re

import pandas as pd
import pytest
import yaml
from planted import runs

from hybrid.book import claims_page
from hybrid.claims import rules, verdicts
from hybrid.papers import published
from hybrid.studies import grid
from hybrid.studies.scales import scale

REGISTRY = {claim.id: claim for claim in verdicts.registry()}
GOOD = {
    "id": "one",
    "paper": "2507.06457",
    "version": "v1",
    "section": "4.3",
    "sentence": "Recall rises.",
    "published": "Table 5",
    "rule": {"name": "rises", "metric": "recall", "margin": 0},
    "why": "Only the direction is claimed.",
    "scales": ["laptop"],
}


@pytest.fixture
def file(tmp_path):
    """Write entries as a file of claims; returns its path."""

    def file(*entries):
        path = tmp_path / "claims.yml"
        path.write_text(yaml.safe_dump(list(entries), sort_keys=False))
        return path

    return file


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))


def test_an_entry_becomes_a_claim_with_its_rule(file):
    (claim,) = verdicts.registry(file(GOOD))
    assert claim.rule == rules.build("rises", {"metric": "recall", "margin": 0})
    assert (claim.id, claim.scales) == ("one", ("laptop",))


def test_each_makes_one_claim_of_every_combination(file):
    entry = GOOD | {
        "id": "{mixer}-{metric}",
        "sentence": "{Mixer} recalls ({Metric}).",
        "each": {"mixer": ["gla", "hgrn2"], "metric": ["recall", "suite"]},
        "rule": {"name": "rises", "metric": "{metric}", "mixers": ["{mixer}"], "margin": 0},
    }
    found = verdicts.registry(file(entry))
    assert [claim.id for claim in found] == ["gla-recall", "gla-suite", "hgrn2-recall", "hgrn2-suite"]
    assert found[3].sentence == "HGRN-2 recalls (the mean of the suite)."
    assert (found[3].rule.metric, found[3].rule.mixers) == ("suite", ("hgrn2",))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rule": {"name": "guess"}}, "claim 'one': unknown rule 'guess'; allowed: difference"),
        (
            {"rule": {"name": "rises", "metric": "recall", "slope": 1}},
            "claim 'one': unknown parameter 'slope'",
        ),
        ({"rule": {"name": "rises", "margin": 0}}, "claim 'one': rule rises needs 'metric'"),
        ({"why": None}, "claim 'one' needs 'why'"),
        ({"scales": ["moon"]}, "claim 'one': unknown scale 'moon'; allowed: smoke, laptop"),
        ({"section": 4.3}, "claim 'one': section must be text in quotes; got 4.3"),
        (
            {"paper": "Wang"},
            "claim 'one': paper must be an arXiv number (2507.06457) or 'this book'; got 'Wang'",
        ),
        ({"paper": "this book"}, "version '-' belongs to paper 'this book'; got 'v1' and 'this book'"),
        ({"version": "-"}, "version '-' belongs to paper 'this book'; got '-' and '2507.06457'"),
        ({"colour": "red"}, "claim 'one' has an unknown field 'colour'; allowed: id"),
        ({"each": ["gla"]}, "claim 'one': each must map names to lists"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(file, change, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        verdicts.registry(file(GOOD | change))


def test_a_missing_field_a_repeated_id_and_a_stray_entry_are_refused(file):
    with pytest.raises(ValueError, match="claim 'number 1' needs 'id'"):
        verdicts.registry(file({name: value for name, value in GOOD.items() if name != "id"}))
    with pytest.raises(ValueError, match=r"claim 'one' stands in claims\.yml more than once"):
        verdicts.registry(file(GOOD, GOOD))
    with pytest.raises(ValueError, match=r"claims\.yml, entry 1, is no claim: 'one'"):
        verdicts.registry(file("one"))


def test_every_rule_decides_some_claim_but_the_one_for_baselines():
    assert {claim.rule.name for claim in REGISTRY.values()} == set(rules.RULES) - {"learnt"}


def test_every_paper_has_a_name_on_the_page():
    assert {claim.paper for claim in REGISTRY.values()} == set(claims_page.PAPERS)


def test_claims_of_this_book_say_so_and_when_their_rules_were_written(empty):
    own = [claim for claim in REGISTRY.values() if claim.paper == verdicts.OWN]
    assert set(verdicts.verdicts("laptop", paper="this book")["id"]) == {claim.id for claim in own} and own
    for claim in own:
        assert (claim.published, claim.scales) == ("not in a paper", ("laptop",))
        assert claim.why.endswith("Written before the runs of the grid were seen.")


def test_claims_of_one_paper_alone(empty):
    found = verdicts.verdicts("laptop", paper="2606.18056")
    assert set(found["paper"]) == {"2606.18056"} and found["id"].str.startswith("consa-").all()
    with pytest.raises(ValueError, match=r"no claim is of paper '1'; allowed: 2507.06457, 2606"):
        verdicts.verdicts("laptop", paper="1")


def test_printed_numbers_stand_in_the_tables_they_are_said_to_be_in():
    checked = 0
    for claim in REGISTRY.values():
        numbers = set(re.findall(r"\b0\.\d{3}\b", claim.published))
        tables = {int(number) for number in re.findall(r"Table (\d)", claim.published)}
        printed = {str(value) for number in tables for value in published.digits(number)["value"]}
        if 6 in tables and "0.390" in numbers:
            assert "though its columns give" in claim.published  # recomputed, and said to be
            numbers -= {"0.390"} - printed
        assert numbers <= printed, claim.id
        checked += len(numbers)
    assert checked > 20


def test_nothing_stored_decides_what_is_counted_and_nothing_else(empty):
    found = verdicts.verdicts("laptop")
    assert tuple(found.columns) == verdicts.COLUMNS and set(found["id"]) == set(REGISTRY)
    counted = found["id"].map(lambda name: REGISTRY[name].rule.name == "counted")
    assert (found[counted]["verdict"] != rules.INCONCLUSIVE).all()
    assert (found[~counted]["verdict"] == rules.INCONCLUSIVE).all() and (
        found[~counted]["reason"] != ""
    ).all()
    known = dict(zip(found["id"], found["verdict"], strict=True))
    assert known["cache-factor-r"] == known["cache-four-to-seven-written"] == rules.SUPPORTED
    assert known["cache-four-to-seven-released"] == known["label-layers"] == rules.NOT_SUPPORTED


def test_a_claim_is_not_decided_at_a_scale_it_does_not_name(empty):
    (row,) = verdicts.verdicts("smoke", ["rises-recall"]).itertuples()
    assert (row.verdict, row.reason) == (rules.INCONCLUSIVE, "decided at laptop, gpu only")


def test_unknown_scales_and_ids_are_refused():
    with pytest.raises(ValueError, match="unknown scale 'moon'; allowed: smoke"):
        verdicts.verdicts("moon")
    with pytest.raises(ValueError, match="unknown claim 'moon'; allowed: rank-lm"):
        verdicts.verdicts("laptop", ["moon"])


def planted_suite(specs, easy=("niah_single_1", "qa_1"), wide=True):
    """Frames as `runs.collect` and `runs.detail` return them: full attention has learnt the easy tasks."""
    head = [
        {
            "run_id": spec.run_id,
            "status": "done",
            "stale": False,
            "layout": str(spec.model.layout),
            "full_blocks": len(spec.model.layout.full),
            "depth": spec.model.depth,
            "mixer": spec.model.mixer_name,
            "seed": spec.seed,
            "home": spec.task.home,
        }
        for spec in specs
    ]
    if wide:
        measured = {"recall": 0.97, "loss_bits_per_byte": 2.0, "counter_bits_per_byte": 2.5}
        return pd.DataFrame([row | measured for row in head])
    tasks = {"niah_single_1": "singlevalue", "niah_single_2": "singlevalue", "qa_1": "qa", "cwe": "cwe_fwe"}
    rows = []
    for row in head:
        share = row["full_blocks"] / row["depth"]
        for task, group in tasks.items():
            full = 0.97 if task in easy else 0.6
            accuracy = full if share == 1 else 0.2 + share + 0.001 * row["seed"]
            for length in (row["home"], 2 * row["home"]):
                rows.append(row | {"task": task, "group": group, "length": length, "chance": 0.1})
                rows[-1]["accuracy"] = accuracy if length == row["home"] else 0.0
    return pd.DataFrame(rows)


def test_the_suite_counts_the_tasks_that_full_attention_learnt_at_the_training_length(monkeypatch):
    monkeypatch.setattr("hybrid.runs.runner.collect", lambda specs, **_: planted_suite(specs))
    monkeypatch.setattr("hybrid.runs.runner.detail", lambda specs, key: planted_suite(specs, wide=False))
    ids = ["rises-suite", "group-rises-singlevalue", "counting-flat", "lm-flat"]
    found = verdicts.verdicts("laptop", ids, seeds=(0, 1, 2)).set_index("id")
    assert found.loc["rises-suite", "verdict"] == rules.SUPPORTED
    assert found.loc["rises-suite", "evidence"].startswith("+0.500 [")  # the densest hybrid is half full
    assert "suite over 2 of 13 tasks" in found.loc["rises-suite", "evidence"]
    assert "singlevalue over 1 of 3 tasks" in found.loc["group-rises-singlevalue", "evidence"]
    assert found.loc["counting-flat", "reason"].startswith("baseline undertrained: lowest cwe_fwe of full")
    assert (found.loc["lm-flat", "verdict"], found.loc["lm-flat", "n"]) == (rules.SUPPORTED, 3)


def test_observations_know_arm_label_chance_and_what_is_missing(empty):
    from hybrid.claims.grid import observed

    specs = grid.grid("laptop", mixers=("gla",), seeds=(0, 1))
    seen = observed({"matched": {"recall": specs, "text": specs}})
    assert set(seen["label"]) == {"pure", "6:1", "3:1", "2:1", "full"} and set(seen["arm"]) == {"matched"}
    assert set(seen.loc[seen["label"] == "full", "mixer"]) == {"full"}
    assert seen["value"].isna().all() and not seen.duplicated(["metric", "run_id"]).any()
    task = specs[0].task
    loads = [pairs for pairs in task.eval_pairs if pairs in task.pairs]
    chance = seen.loc[seen["metric"] == "recall", "chance"]
    assert chance.unique() == pytest.approx(sum(1 / pairs for pairs in loads) / len(loads))
    with pytest.raises(ValueError, match="no run"):
        observed({})
    with pytest.raises(ValueError, match="no run"):
        observed({"matched": {"recall": []}})


@pytest.mark.parametrize(("floor", "means"), [(None, 0.1), (0.4, 0.4)])
def test_observations_take_the_floor_of_the_rows_or_else_their_chance(monkeypatch, floor, means):
    from hybrid.claims.grid import observed

    def detail(specs, key):
        rows = planted_suite(specs, wide=False)
        return rows if floor is None else rows.assign(floor=floor)

    monkeypatch.setattr("hybrid.runs.runner.collect", lambda specs, **_: planted_suite(specs))
    monkeypatch.setattr("hybrid.runs.runner.detail", detail)
    specs = grid.grid("laptop", mixers=("gla",), seeds=(0,))
    seen = observed({"matched": {"suite": specs, "text": specs}}).groupby("metric")
    chance, found = seen["chance"].mean(), seen["floor"].mean()
    for metric in ("suite", "singlevalue", "qa"):
        assert (chance[metric], found[metric]) == (pytest.approx(0.1), pytest.approx(means))
    assert math.isnan(found["loss_bits_per_byte"])
    assert seen["bits"].mean()["loss_bits_per_byte"] == 2.0 and seen["counter"].mean()["last_word"] == 2.5


def test_observations_have_the_columns_of_planted_ones(empty):
    from hybrid.claims.grid import GRIDS, kind, observed

    specs = grid.grid("smoke", mixers=("gla",), seeds=(0,))
    seen = observed({"matched": dict.fromkeys(GRIDS, specs)})
    assert set(runs(lambda *_: 0.5, counter=1.0).columns) <= set(seen.columns)
    assert {kind(metric) for metric in seen["metric"]} == set(GRIDS)


def test_the_page_shows_every_claim_its_rule_and_the_baseline(empty, tmp_path):
    page = claims_page.write(tmp_path / "claims.md", "laptop").read_text()
    for claim in REGISTRY.values():
        assert f"| `{claim.id}` | " in page and claim.sentence in page
        assert claim.rule.words().replace("|", r"\|") in page
    assert "no finished run of full attention" in page
    # Full attention and four layouts of the paper's mixers, in the matched arm Mamba-2 too.
    seeds = len(scale("laptop", "recall").seeds)
    assert f"| recall | matched | recall | 0 of {seeds * (1 + 4 * 7)} | 0 |" in page
    assert f"| recall | published | recall | 0 of {seeds * (1 + 4 * 6)} | 0 |" in page
    assert "## Claims of this book\n\n### Recall at the largest load" in page


def test_the_page_of_a_scale_at_which_no_claim_about_runs_is_decided(empty, tmp_path):
    page = claims_page.write(tmp_path / "claims.md", "paper").read_text()
    assert "No claim about runs of a grid is decided at this scale." in page


def test_a_grid_that_several_kinds_are_read_from_is_one_line_of_the_page(empty, tmp_path, monkeypatch):
    monkeypatch.setattr("hybrid.claims.grid.GRIDS", dict.fromkeys(("recall", "text", "suite"), "mixture"))
    page = claims_page.write(tmp_path / "claims.md", "laptop").read_text()
    assert "| mixture | matched | recall, text, suite | 0 of 87 | 0 |" in page
    assert "| mixture | published | recall | 0 of 75 | 0 |" in page


def test_the_command_writes_the_page(empty, tmp_path, capsys):
    from hybrid import cli

    assert cli.main(["claims", "--scale", "smoke", "--out", str(tmp_path / "c.md")]) == 0
    assert (tmp_path / "c.md").read_text().startswith("# Claims")
    assert cli.main(["claims", "--scale", "moon"]) == 2 and "unknown scale 'moon'" in capsys.readouterr().err
