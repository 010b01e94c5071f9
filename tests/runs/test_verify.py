"""Recomputed results: what is chosen, what counts as equal, and what a record of equality covers."""

import json
from dataclasses import replace

import fake_training as fake
import pytest
import test_training
from fake_training import logged, result, spec
from hypothesis import given
from hypothesis import strategies as st

from hybrid import cli
from hybrid.runs import provenance, runner, verify
from hybrid.runs.provenance import LOADED, Verification
from hybrid.runs.store import Result, Store, StoreWarning
from hybrid.studies import grid

OLD, OLDER = "1" * 16, "0" * 16
GPU = {"device": "a GPU", "versions": {"python": "3"}}


def old(spec, code=OLD, metrics=None, **evidence):
    """What `fake_training` gives, as a stored result of older code."""
    made = result(spec)
    dated = {"source_hash": code, "date": f"2026-01-01T00:00:{spec.seed:02}+00:00"}
    return replace(made, metrics=made.metrics | (metrics or {}), provenance=GPU | dated | evidence)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Store results, as those of the study "fake"; a worker of one thread recomputes them."""
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "work"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(provenance, "source_hash", LOADED.__getitem__)

    def stored(*results):
        for one in results:
            Store().write(one)
        monkeypatch.setitem(grid.STUDIES, "fake", lambda scale: [one.spec for one in results])
        return files()

    return stored


def files():
    return {path.name: path.read_bytes() for path in (Store().root / "runs").iterdir()}


def recompute(train=fake.train, **options):
    return verify.verify("fake", "laptop", train=train, **{"workers": 1, "progress": False, **options})


def stale(*specs):
    return runner.collect(specs, minutes=0)["stale"].tolist()


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, -0.0, 1.0, 0.25]), st.just("a")
)
NESTS = st.recursive(
    LEAVES,
    lambda n: st.one_of(st.lists(n, max_size=2), st.dictionaries(st.sampled_from("ab"), n)),
    max_leaves=5,
)


@given(NESTS, NESTS)
def test_values_differ_where_their_json_does(one, other):
    alike = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (list(verify.differences("x", one, other)) == []) is alike


def test_differences_have_names_and_sizes():
    then = {
        "recall": 0.5,
        "by": [{"n": 4, "p": 0.25}, {"n": 8, "p": 0.5}],
        "gone": 1,
        "none": None,
        "zero": 0.0,
    }
    now = {"recall": 0.5, "by": [{"n": 4, "p": 0.2}], "new": 2, "none": 3.0, "zero": -0.0}
    assert list(verify.differences("metrics", then, now)) == [
        ("metrics.by[0].p", pytest.approx(0.2)),
        ("metrics.by[1]", float("inf")),
        ("metrics.gone", float("inf")),
        ("metrics.none", float("inf")),
        ("metrics.zero", 0.0),
        ("metrics.new", float("inf")),
    ]


def test_one_run_is_chosen_for_every_family_and_code(stored):
    wanted = [
        old(spec(3)),
        old(spec(4, layout="FFF")),
        old(spec(5, mixer="gla")),
        old(spec(6), OLDER),
        replace(old(spec(7, mixer="retnet")), status="failed"),
        old(spec(8), precision="bf16-mixed"),
    ]
    passed_over = [
        old(spec(9, layout="LLL")),
        old(spec(0)),
        replace(old(spec(10)), status="failed"),
        result(spec(2)),
        old(spec(2, layout="FFF")),
        old(spec(1, mixer="gla", layout="FLL")),
        old(spec(1), OLDER),
    ]
    mixed = [one for pair in zip(passed_over, [*wanted, None], strict=True) for one in pair if one]
    stored(*mixed)
    specs = [one.spec for one in mixed] + [spec(99)]
    chosen = verify.choose(specs)
    assert {r.run_id for r in chosen} == {r.run_id for r in wanted} and len(chosen) == len(wanted)
    assert verify.choose(reversed(specs)) == chosen


def test_a_run_of_a_machine_like_this_one_is_preferred(stored):
    machine, _, _ = provenance.device_name().partition(",")
    here = old(spec(1), device=f"{machine}, 7 threads")
    others = [old(spec(0)), old(spec(2), device="another CPU (AVX512), 1 thread")]
    stored(here, *others)
    assert verify.choose([one.spec for one in (here, *others)]) == [here]


def test_equal_runs_leave_a_record_that_covers_their_families_alone(stored):
    before = stored(
        old(spec(0)), old(spec(1)), old(spec(2, layout="FFF")), old(spec(3), OLDER), result(spec(4))
    )
    report = recompute()
    assert sorted(seed for seed, _ in logged()) == ["1", "2", "3"]
    assert files() == before
    assert not report.differs and [str(c) for c in report.comparisons] == ["equal"] * 3
    kept = {path: json.loads(path.read_text()) for path in report.records.values()}
    assert sorted((Store().root / "verified").iterdir()) == sorted(kept)
    record = kept[report.records[OLD]]
    assert record.pop("date") > "2026" and record == {
        "old": OLD,
        "new": LOADED["run"],
        "runs": {"full": spec(2, layout="FFF").run_id, "gated_deltanet": spec(1).run_id},
        "devices": [""],
        "versions": provenance.versions(),
        **provenance.commit(),
    }
    later = [
        old(spec(5)),
        old(spec(6, mixer="gla")),
        old(spec(7), precision="bf16-mixed"),
        old(spec(8), "2" * 16),
    ]
    for one in later:
        Store().write(one)
    assert stale(spec(0), spec(1), spec(2, layout="FFF"), spec(3), spec(4)) == [False] * 5
    assert stale(*(one.spec for one in later)) == [False, True, True, True]
    Store().write(old(spec(3, layout="FFF"), OLDER))
    assert stale(spec(3, layout="FFF")) == [True]
    again = recompute()
    assert again.comparisons == [] and str(again) == "no stored result of this study at this scale is stale"
    assert len(logged()) == 3


def test_a_difference_in_the_last_digit_is_named_and_nothing_is_recorded_of_its_code(stored):
    full = spec(1, layout="FFF")
    before = stored(old(spec(0), metrics={"recall": 0.500001}), old(full), old(spec(2), OLDER))
    report = recompute()
    printed = str(report)
    rows = {line.split()[0]: line.split() for line in printed.splitlines()[1:4]}
    assert rows[full.run_id] == [full.run_id, OLD, "full", "gated_deltanet", "FFF,", "seed", "1", "equal"]
    assert rows[spec(0).run_id][2:7] == ["gated_deltanet", "gated_deltanet", "LLF,", "seed", "0"]
    assert " ".join(rows[spec(0).run_id][7:]) == "differs by up to 2.0e-06, first in metrics.recall"
    assert f"{spec(0).run_id}: device a GPU then, None now\n" in printed
    assert f"{OLD}: 1 of 2 equal; nothing is recorded" in printed
    (record,) = (Store().root / "verified").iterdir()
    assert f"{OLDER} counts as {LOADED['run']}: {record}" in printed and list(report.records) == [OLDER]
    assert stale(spec(0), full, spec(2)) == [True, True, False]
    assert files() == before and report.differs


def test_the_next_call_goes_on_where_one_was_stopped(stored):
    stored(old(spec(0)), old(spec(1, layout="FFF")))
    with pytest.warns(UserWarning, match="2 of 2 runs were not finished"):
        report = recompute(minutes=1e-9)
    assert [str(c) for c in report.comparisons] == ["not recomputed yet"] * 2
    assert not report.differs and report.records == {}
    with pytest.raises(runner.RunError, match="no such layer"):
        recompute(fake.wrong_at_seed_1)
    assert stale(spec(0)) == [True]
    assert list(recompute().records) == [OLD] and logged() == [["0", "trained"], ["1", "trained"]]


def test_each_run_gets_the_threads_it_had(stored):
    stored(
        old(spec(0), device="a CPU, 3 threads"),
        old(spec(1, layout="FFF"), device="a CPU, 2 threads"),
        old(spec(2, mixer="gla"), device="a CPU, 1 thread"),
    )
    recompute(fake.report_torch_threads)
    assert sorted(logged()) == [["0", "3"], ["1", "2"], ["2", "1"]]
    assert provenance.threads("NVIDIA H200") is None
    assert provenance.threads(provenance.device_name()) == test_training.torch.get_num_threads()


def test_what_other_code_recomputed_does_not_count(stored):
    stored(old(spec(0)))
    with pytest.warns(UserWarning, match=f"the code changed while {spec(0).run_id}"):
        assert recompute(fake.by_other_code).records == {}
    assert str(recompute(minutes=0).comparisons[0]) == "not recomputed yet"


def record(old, new, *kinds):
    return Verification(old, new, {k: "a" * 12 for k in kinds}, ["a CPU"], {}, None, None, "2026-01-01")


@given(
    st.sets(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde"), st.sampled_from(["gla", "full"])))
)
def test_chains_are_of_one_variety(links):
    records = [record(*link) for link in links]
    reach = {(one, other) for one, other, kind in links if kind == "gla"} | {(x, x) for x in "abcde"}
    for middle in "abcde":
        reach |= {(x, y) for x in "abcde" for y in "abcde" if {(x, middle), (middle, y)} <= reach}
    assert provenance.counting_as("a", "gla", records) == {x for x in "abcde" if (x, "a") in reach}


def test_a_chain_of_records_leads_to_todays_code(stored):
    stored(old(spec(0), OLDER), old(spec(1, layout="FFF"), OLDER), old(spec(2), OLD))
    paths = [
        record(OLDER, OLD, "gated_deltanet", "full").write(),
        record(OLD, LOADED["run"], "gated_deltanet").write(),
    ]
    every = [spec(0), spec(1, layout="FFF"), spec(2)]
    assert stale(*every) == [False, True, False]
    paths[1].write_text(paths[1].read_text()[:50])
    with pytest.warns(StoreWarning, match=paths[1].name):
        assert stale(*every) == [True, True, True]
    paths[1].write_text('{"old": "x"}')
    with pytest.warns(StoreWarning, match=paths[1].name):
        assert provenance.verifications() == [record(OLDER, OLD, "gated_deltanet", "full")]


def test_a_real_training_is_recomputed_digit_for_digit(stored, capsys):
    tiny = test_training.spec()
    made = Result.from_json(test_training.fit(tiny, progress=False).to_json())
    stored(replace(made, provenance=made.provenance | {"source_hash": OLD}))
    command = ["verify", "--study", "fake", "--workers", "1"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].endswith(" equal") and f"{OLD} counts as {LOADED['run']}" in printed
    assert stale(tiny) == [False]
    (path,) = (Store().root / "verified").iterdir()
    assert json.loads(path.read_text())["devices"] == [made.provenance["device"]]
    path.unlink()
    made.curve[-1]["loss_bits_per_byte"] += 1e-5
    stored(replace(made, provenance=made.provenance | {"source_hash": OLD, "device": "another"}))
    assert cli.main(command) == 1
    printed = capsys.readouterr().out
    assert f"first in curve[{len(made.curve) - 1}].loss_bits_per_byte" in printed
    assert f"device another then, {made.provenance['device']} now" in printed
    assert stale(tiny) == [True]


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"minutes": -1}], ids=str)
def test_impossible_options_are_refused(stored, wrong):
    stored(old(spec(0)))
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        recompute(**wrong)
    with pytest.raises(ValueError, match="unknown study 'grids'"):
        verify.verify("grids", "laptop")
