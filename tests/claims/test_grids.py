"""Each metric is read from the runs of its own grid, stored by hand or by one real run of each."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from hybrid.claims import rules, verdicts
from hybrid.claims.grid import GRIDS, asked, kind, observed, read_from
from hybrid.config import Layout
from hybrid.data.floors import recall_floor
from hybrid.papers.published import paper_mixers
from hybrid.runs.store import Result, Store
from hybrid.studies import grid, scales

RULES = {claim.id: claim.rule for claim in verdicts.registry()}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    return Store()


@pytest.fixture
def grids(monkeypatch):
    """A scale of its own with a grid for each kind of metrics: other depths, tasks and seeds."""
    smoke, replace = scales.SMOKE, dataclasses.replace
    recall = replace(scales.SMOKE_RECALL, depth=6, ratios=scales.LAPTOP.ratios, seeds=(10, 11, 12))
    text = replace(smoke, depth=4, ratios=("pure", "4:1", "full"))
    text = replace(text, task=replace(smoke.task, recall_fraction=0.0))
    here = {"recall": recall, "text": text, "suite": smoke, "mixture": smoke}
    monkeypatch.setitem(scales.SCALES, "laptop", here)
    monkeypatch.setattr("hybrid.claims.grid.GRIDS", {name: name for name in GRIDS})
    return here


def stored(store, specs, metrics):
    for spec in specs:
        store.write(Result(spec.run_id, spec, "done", "", metrics(spec), [], {"seconds": 1.0}))


def rows(loads, home, accuracy):
    """Rows of `recall_by`: all distances and one bin, at the home length and a longer one."""
    return [
        {"length": length, "pairs": n, "distance": distance, "accuracy": accuracy(n), "n": 8}
        if (length, distance) == (home, None)
        else {"length": length, "pairs": n, "distance": distance, "accuracy": 0.0, "n": 8}
        for n in loads
        for length in (home, 2 * home)
        for distance in (None, 8)
    ]


def test_only_the_grids_that_the_rules_need_are_asked(grids):
    needs = {"lm-flat": "text", "rises-recall": "recall", "rises-suite": "suite", "needles-carry": "suite"}
    for name, some in needs.items():
        (arm, kinds) = next(iter(asked([RULES[name]], "laptop").items()))
        assert (arm, list(kinds)) == ("matched", [some])
        (task,) = {spec.task for spec in kinds[some]}
        assert task == grids[some].task
        assert {spec.seed for spec in kinds[some]} == set(grids[some].seeds)
    both = asked([RULES["lm-flat"], RULES["convolution-gla"]], "laptop", seeds=(3, 4))
    assert {arm: list(kinds) for arm, kinds in both.items()} == {
        "matched": ["recall", "text"],
        "published": ["recall"],
    }
    assert {spec.seed for kinds in both.values() for specs in kinds.values() for spec in specs} == {3, 4}


def test_a_mixer_beside_the_paper_s_is_read_where_a_rule_names_it(grids):
    def mixers(*names):
        (kinds,) = asked([RULES[name] for name in names], "laptop").values()
        return {name: {spec.model.mixer_name for spec in specs} - {"full"} for name, specs in kinds.items()}

    assert mixers("rises-recall") == {"recall": set(paper_mixers())}
    own = mixers("lm-flat", "rises-recall", "capacity-orders-recall")
    assert own == {"recall": {*paper_mixers(), "mamba2"}, "text": set(paper_mixers())}


def test_a_scale_without_a_grid_of_that_name_is_read_from_its_mixture():
    for name in GRIDS:
        assert read_from("gpu", name) == read_from("paper", name) == "mixture"
    (kinds,) = asked([RULES["lm-flat"], RULES["rises-recall"], RULES["rises-suite"]], "gpu").values()
    assert kinds["recall"] == kinds["text"] == kinds["suite"] == grid.grid("gpu")


@pytest.mark.parametrize("name", list(RULES))
def test_every_metric_of_the_claims_is_of_a_kind_that_has_a_grid(name):
    if RULES[name].reads == "grid":
        assert {kind(metric) for metric in RULES[name].metrics()} <= set(GRIDS)


def test_each_grid_gives_its_own_metrics_labels_and_seeds(grids, store):
    """Every grid stores every metric; only the grid that a metric is read from must say something."""
    of = {name: grid.grid("laptop", name, ("gla",)) for name in GRIDS}
    value = {"recall": 0.3, "text": 0.2, "suite": 0.1}
    for name, specs in of.items():
        home = grids[name].task.home
        suite = [
            {
                "task": task,
                "group": "qa",
                "length": home,
                "accuracy": value[name],
                "chance": 0.05,
                "floor": 0.06,
            }
            for task in ("qa_1", "qa_2")
        ]
        measured = {"loss_bits_per_byte": value[name], "recall": value[name], "counter_bits_per_byte": 7.0}
        by = {"recall_by": rows((2, 4), home, lambda n, v=value[name]: v + n / 100), "suite_by": suite}
        stored(store, specs, lambda spec, all=measured | by: all)
    seen = observed({"matched": of})
    for metric, expected in {
        "loss_bits_per_byte": ("text", 0.2),
        "recall": ("recall", 0.3),
        "recall_2": ("recall", 0.32),
        "recall_4": ("recall", 0.34),
        "suite": ("suite", 0.1),
        "qa": ("suite", 0.1),
    }.items():
        mine = seen[seen["metric"] == metric]
        name, number = expected
        assert mine["value"].tolist() == pytest.approx([number] * len(of[name])), metric
        assert set(mine["run_id"]) == {spec.run_id for spec in of[name]}
        assert set(mine["seed"]) == set(grids[name].seeds) and set(mine["depth"]) == {grids[name].depth}
        assert set(mine["label"]) == set(grids[name].ratios)
        for label, layout, run in zip(mine["label"], mine["full_blocks"], mine["run_id"], strict=True):
            (spec,) = (spec for spec in of[name] if spec.run_id == run)
            assert spec.model.layout == Layout.from_ratio(label, grids[name].depth)
            assert layout == len(spec.model.layout.full)


def test_recall_at_a_load_has_the_chance_and_floor_of_that_load_in_its_own_task(grids):
    task = grids["recall"].task
    seen = observed({"matched": {"recall": grid.grid("laptop", "recall", ("gla",))}})
    assert set(seen["metric"]) == {"recall", *(f"recall_{n}" for n in task.eval_pairs)}
    floors = {n: recall_floor(task.home, n) for n in task.eval_pairs}
    for n in task.eval_pairs:
        mine = seen[seen["metric"] == f"recall_{n}"]
        assert mine["value"].isna().all() and (mine["chance"] == 1 / n).all()
        assert (mine["floor"] == floors[n]).all()
    whole = seen[seen["metric"] == "recall"]
    trained = [n for n in task.eval_pairs if n in task.pairs]
    assert whole["chance"].unique() == pytest.approx(sum(1 / n for n in trained) / len(trained))
    assert whole["floor"].unique() == pytest.approx(sum(floors[n] for n in trained) / len(trained))


def test_a_load_that_the_home_length_cannot_hold_is_no_metric():
    """Of the loads of scale gpu, 128 pairs need 512 tokens; a summary is made at 256."""
    seen = observed({"matched": {"recall": grid.grid("gpu", mixers=("gla",), seeds=(0,))}})
    assert "recall_64" in set(seen["metric"]) and "recall_128" not in set(seen["metric"])


def test_what_no_grid_measures_is_said_and_does_not_crash(grids, store):
    """The grid of recall has no text and no suite."""
    recall = grid.grid("laptop", "recall", ("gla",))
    stored(store, recall, lambda spec: {"recall": 0.97, "recall_by": rows((2, 4), 64, lambda n: 0.97)})
    seen = observed({"matched": dict.fromkeys(GRIDS, recall)})
    assert {kind(metric) for metric in seen["metric"]} == {"recall"}
    for name in ("rises-suite", "rank-lm", "needles-carry", "lm-flat", "most-exceed-full-suite", "rises-gla"):
        found = RULES[name](seen)
        assert found.verdict == rules.INCONCLUSIVE
        assert found.reason.startswith("not measured at this scale: "), name
    nothing = observed({"matched": {"suite": recall}})
    assert nothing.empty and RULES["rises-suite"](nothing).reason == "not measured at this scale: suite"


def test_claims_on_a_suite_that_the_scale_does_not_measure_are_inconclusive(grids):
    without = dataclasses.replace(grids["suite"].task, suite_fraction=0.0)
    grids["suite"] = dataclasses.replace(grids["suite"], task=without)
    found = verdicts.verdicts("laptop").set_index("id")
    assert found.loc["rises-suite", "reason"] == "not measured at this scale: suite"
    assert found.loc["rank-suite", "reason"] == "not measured at this scale: suite"
    assert found.loc["counting-flat", "reason"] == "not measured at this scale: cwe_fwe"
    assert found.loc["rises-recall", "reason"].startswith("baseline unknown")


def test_a_group_of_the_suite_without_a_measured_task_says_so_once(grids, store):
    task = dataclasses.replace(grids["suite"].task, suite_tasks=("niah_single_1", "qa_1"))
    grids["suite"] = dataclasses.replace(grids["suite"], task=task)
    specs = grid.grid("laptop", "suite", ("gla",))
    by = [
        {"task": name, "group": "", "length": task.home, "accuracy": 1.0, "chance": 0.1, "floor": 0.1}
        for name in task.suite_tasks
    ]
    stored(store, specs, lambda spec: {"suite_by": by, "recall_by": rows((2, 4), task.home, lambda n: 1.0)})
    seen = observed({"matched": {"suite": specs}})
    assert set(seen["metric"]) == {"suite", "needle", "singlevalue", "qa"}
    assert seen.groupby("metric")["tasks"].unique().map(list).to_dict() == {
        "suite": ["2 of 2"], "needle": ["1 of 1"], "singlevalue": ["1 of 1"], "qa": ["1 of 1"],
    }  # fmt: skip
    assert RULES["counting-flat"](seen).reason == "not measured at this scale: cwe_fwe"


def test_one_real_run_of_the_smoke_scale_holds_what_the_claims_read(store):
    """Trained, measured and stored: the counter of the text, and recall at each load."""
    from hybrid.data.corpus import load_corpus
    from hybrid.data.counters import counter_bits
    from hybrid.training.fit import fit

    spec = grid.grid("smoke", "mixture", ("gla",), ("full",), (0,))[0].with_(steps=2, warmup=0, eval_every=2)
    spec = spec.with_(corpus=f"{Path(asyncio.__file__).parent}/*.py")
    store.write(fit(spec, progress=False))
    result = store.read(spec)
    corpus = load_corpus(spec.task)
    best = min(counter_bits(corpus.train, corpus.valid, orders=6).values())
    assert result.metrics["counter_bits_per_byte"] == pytest.approx(best, rel=1e-4)
    seen = observed({"matched": {name: [spec] for name in GRIDS}}).set_index("metric")
    for metric in ("loss_bits_per_byte", "last_word"):
        assert seen.loc[metric, "value"] == result.metrics[metric]
        assert seen.loc[metric, "bits"] == result.metrics["loss_bits_per_byte"]
        assert seen.loc[metric, "counter"] == result.metrics["counter_bits_per_byte"]
    at = {
        row["pairs"]: row["accuracy"]
        for row in result.metrics["recall_by"]
        if row["distance"] is None and row["length"] == spec.task.home
    }
    assert {n: seen.loc[f"recall_{n}", "value"] for n in spec.task.eval_pairs} == at
    guard = rules.build("rises", {"metric": "loss_bits_per_byte", "margin": 0})
    assert guard(seen.reset_index()).reason.startswith("text undertrained: full attention ")
