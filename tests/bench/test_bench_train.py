"""Steps of ours and of the peer: the same sizes, the same batches, and every row of the tables."""

from __future__ import annotations

import pytest
import torch
from fla_stub import models

from hybrid.bench import BenchSpec, clock, packed, train
from hybrid.bench.step import Step, hybrid
from hybrid.checkpoints.huggingface import renamed
from hybrid.models.cost import parameters
from hybrid.models.hybrid_lm import HybridLM


def test_the_peer_is_the_same_function_of_the_same_weights():
    run, build = train.candidates("smoke")["transformers Llama"]
    peer = build(run)
    ours = HybridLM(run.model)
    ours.load_state_dict(renamed(peer.state_dict(), ours))
    batch = Step(run, build, "cpu").batch()
    torch.testing.assert_close(ours(batch["input_ids"]).logits, peer(batch["input_ids"]).logits)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "gpu", "paper"])
def test_candidates_are_one_full_one_mixed_and_six_pure_models(scale):
    runs = {name: run for name, (run, _) in train.candidates(scale).items()}
    assert next(iter(runs)) == "hybrid full" and list(runs)[-1] == "transformers Llama"
    assert len(runs) == 9 and sum(name.endswith(" pure") for name in runs) == 6
    assert len({run.task.seq_len * run.train.batch_size for run in runs.values()}) == 1
    assert all("hub:" not in run.task.corpus for run in runs.values())
    if scale == "paper":
        assert runs["hybrid full"].model.hidden_size == 1024


def test_on_a_gpu_flas_models_with_our_weights_are_peers(monkeypatch):
    models(monkeypatch)
    chosen = train.candidates("smoke", "cuda")
    peers = [name for name in chosen if name.startswith("fla ")]
    assert [name.replace("fla", "hybrid") for name in peers] == [
        n for n in chosen if "hybrid" in n and "pure" in n
    ]
    for name in peers:
        run, build = chosen[name]
        theirs, ours = dict(build(run).named_parameters()), dict(hybrid(run).named_parameters())
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[n], ours[n]) for n in ours), name


def test_a_step_learns():
    step = Step(*train.candidates("smoke")["hybrid gated_deltanet 2:1"], "cpu")
    batch = step.batch()
    before = step.forward(batch).item()
    for _ in range(5):
        step.forward(batch).backward()
        step.update()
    assert step.forward(batch).item() < before - 0.1


def test_peak_memory_is_that_of_one_model_among_several(monkeypatch):
    class Still(Step):
        def __call__(self):
            pass

    step = Still(*train.candidates("smoke")["hybrid full"], "cpu")
    assert step.peak() is None
    Step.__call__(step)
    parameters = list(step.model.parameters())
    counters = 4 * len(parameters)
    assert step.held() == 3 * 4 * sum(p.numel() for p in parameters) + counters
    step.device = "cuda"
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1000 + step.held())
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5000 + step.held())
    assert step.peak() == 4000 + step.held()


def test_tables_hold_every_candidate_and_part(monkeypatch):
    monkeypatch.setattr(clock, "MATRIX", 64)
    monkeypatch.setattr(clock, "COPIED", 1 << 16)
    monkeypatch.setattr(train, "LOOP_STEPS", 2)
    monkeypatch.setattr(packed, "measure", lambda spec, run: [{"run": run.run_id}])
    spec = BenchSpec("train", "smoke", repeats=2)
    tables = train.measure(spec, progress=False)
    candidates = train.candidates("smoke")
    rows = {row["implementation"]: row for row in tables["steps"]}
    assert list(rows) == list(candidates)
    for name, (run, _) in candidates.items():
        assert rows[name]["parameters"] == parameters(run.model)
        assert rows[name]["tokens_per_second"] == pytest.approx(1e3 * 8 * 64 / rows[name]["ms"])
        assert rows[name]["ratio"] == pytest.approx(rows[name]["ms"] / rows["transformers Llama"]["ms"])
    assert [(r["implementation"], r["part"]) for r in tables["parts"]] == [
        (name, part) for name in candidates for part in train.PARTS
    ]
    assert [row["loop"] for row in tables["loops"]] == ["bare", "lightning"]
    assert all(row["ms"] > 0 for row in tables["loops"]) and tables["loops"][0]["ratio"] == 1
    assert tables["packed"] == [{"run": train.packed_run("smoke").run_id}]


def test_another_number_of_parameters_is_refused(monkeypatch):
    monkeypatch.setattr(train, "parameters", lambda model: 7)
    steps = {"transformers Llama": Step(*train.candidates("smoke")["transformers Llama"], "cpu")}
    with pytest.raises(
        ValueError, match=r"transformers Llama holds [\d,]+ parameters, not the 7 of its size"
    ):
        train._steps(steps, BenchSpec("train", "smoke", repeats=2), 1.0)


def test_a_process_that_fails_among_several_ends_them_all(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = train.packed_run("smoke").with_(corpus="hub:nobody/nothing")
    with pytest.raises(Exception, match="nobody/nothing"):
        packed.measure(BenchSpec("train", "smoke", repeats=2), run)
