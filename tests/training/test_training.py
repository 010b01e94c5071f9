"""Training: resume is exact, accumulation and two processes change nothing, divergence is kept."""

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from flat import flat_config

from hybrid.config import LinearConfig, RunSpec, TaskConfig, TrainConfig
from hybrid.data import module
from hybrid.runs.runner import work_folder
from hybrid.runs.store import Result
from hybrid.training import fit as fitting
from hybrid.training.fit import LitHybridLM, fit
from hybrid.training.loop import learning_rate_factor, number_format

TASK = TaskConfig(seq_len=16, pairs=(1, 2), eval_pairs=(2,), eval_lengths=(16,), eval_sequences=4)


def spec(**changes) -> RunSpec:
    model = flat_config(
        "LF",
        vocab_size=384,
        hidden_size=16,
        mlp_size=16,
        num_heads=2,
        head_k_dim=8,
        head_v_dim=8,
        attn_heads=2,
    )
    train = TrainConfig(steps=6, batch_size=4, warmup=2, eval_every=3, lr=1e-2)
    return RunSpec(model, TASK, train, seed=1).with_(**changes)


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("recall", "suite"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.5, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 0.5)]
)
def test_a_result_names_the_corpus_whenever_one_was_read(monkeypatch, recall, suite):
    """Needles hide in the corpus, so a run of recall alone may read it too."""
    read = []
    original = module.load_corpus
    monkeypatch.setattr(module, "load_corpus", lambda task: read.append(original(task)) or read[-1])
    task = TaskConfig(
        seq_len=64,
        pairs=(1,),
        eval_pairs=(1,),
        eval_lengths=(64,),
        eval_sequences=2,
        recall_fraction=recall,
        suite_fraction=suite,
    )
    run = spec(steps=1, warmup=0, eval_every=1)
    metrics = fit(
        RunSpec(dataclasses.replace(run.model, vocab_size=512), task, run.train), progress=False
    ).metrics
    assert metrics.get("corpus_fingerprint") == (read[0].fingerprint if read else None)
    assert bool(read) == ((recall, suite) != (1.0, 0.0))
    # Text is trained on, and so has a counter to beat, wherever not all sequences are recall.
    assert ("counter_bits_per_byte" in metrics) == (recall < 1)


class Stopped(Exception):
    pass


def stop_at(monkeypatch, step: int):
    """Interrupt training after `step` optimiser steps, as a crash would."""
    original = LitHybridLM.training_step

    def training_step(self, batch, index):
        if self.global_step == step:
            raise Stopped
        return original(self, batch, index)

    monkeypatch.setattr(LitHybridLM, "training_step", training_step)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_resumed_weights_are_bit_equal(tmp_path, monkeypatch, step):
    whole = fit(spec(), checkpoint_dir=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            fit(spec(), checkpoint_dir=tmp_path / "cut", progress=False)
    resumed = fit(spec(), checkpoint_dir=tmp_path / "cut", progress=False)
    expected, got = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name
    assert resumed.metrics == whole.metrics
    assert resumed.curve == whole.curve


def test_a_killed_process_resumes_and_ends_as_if_it_had_not_been_killed(tmp_path):
    long = spec(steps=400, eval_every=20)
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(long.to_dict()))
    stored = tmp_path / "results" / "runs" / f"{long.run_id}.json"
    env = os.environ | {"HYBRID_RESULTS": str(tmp_path / "results"), "HYBRID_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "hybrid", "train", "--spec", str(file), "--quiet"]

    process = subprocess.Popen(command, env=env)
    while process.poll() is None and not list(tmp_path.glob("cache/**/last.ckpt")):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not stored.exists()

    subprocess.run(command, env=env, check=True, timeout=300)
    whole = fit(long, progress=False)
    resumed = vars(Result.from_json(stored.read_text()))
    assert [point["step"] for point in resumed["curve"]] == list(range(20, 401, 20))
    assert resumed["metrics"]["recall"] == pytest.approx(whole.metrics["recall"], abs=1e-6)
    for ours, theirs in zip(resumed["curve"], whole.curve, strict=True):
        assert ours["loss_bits_per_byte"] == pytest.approx(theirs["loss_bits_per_byte"], rel=1e-5)


def test_same_seed_same_run_other_seed_other_run():
    first, again, other = (fit(s, progress=False) for s in (spec(), spec(), spec(seed=2)))
    assert first.curve == again.curve
    assert first.curve != other.curve


def test_accumulation_gives_the_same_weights(tmp_path):
    whole = fit(spec(), checkpoint_dir=tmp_path / "one", progress=False)
    halves = fit(spec(accumulate=2), checkpoint_dir=tmp_path / "two", progress=False)
    for a, b in zip(whole.curve, halves.curve, strict=True):
        assert math.isclose(a["train_loss"], b["train_loss"], rel_tol=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)


def train_on_two_processes(spec, folder, strategy) -> dict:
    """The result that `python -m hybrid train` stores."""
    file = folder / "spec.json"
    file.write_text(json.dumps(spec.to_dict()))
    env = os.environ | {
        "HYBRID_RESULTS": str(folder / "results"),
        "HYBRID_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "hybrid", "train", "--spec", str(file), "--quiet"]
    done = subprocess.run(
        [*command, "--devices", "2", "--strategy", strategy],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return vars(Result.from_json((folder / "results" / "runs" / f"{spec.run_id}.json").read_text()))


@pytest.mark.parametrize(("strategy", "accumulate"), [("ddp", 1), ("fsdp", 2)])
def test_two_processes_give_the_same_run(tmp_path, strategy, accumulate):
    """Two CPU processes share out the batch, and under FSDP the model, so the run is the one-process run."""
    both = spec(accumulate=accumulate, linear=LinearConfig("hgrn"))
    stored = train_on_two_processes(both, tmp_path, strategy)
    alone = fit(both, progress=False)
    assert stored["provenance"]["devices"] == 2
    assert stored["metrics"].keys() == alone.metrics.keys()
    assert stored["metrics"]["parameters"] == alone.metrics["parameters"]
    assert math.isclose(stored["metrics"]["recall"], alone.metrics["recall"], abs_tol=0.02)
    for shared, one in zip(stored["curve"], alone.curve, strict=True):
        assert shared["step"] == one["step"]
        for name in ("loss_bits_per_byte", "train_loss"):
            assert math.isclose(shared[name], one[name], rel_tol=1e-4)


def test_a_sharded_run_goes_on_from_the_checkpoint_of_one_process(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
        folder = work_folder(spec())
        stop_at(patch, 4)
        with pytest.raises(Stopped):
            fit(spec(), checkpoint_dir=folder, progress=False)
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3
    stored = train_on_two_processes(spec(), tmp_path, "fsdp")
    alone = fit(spec(), progress=False)
    assert [point["step"] for point in stored["curve"]] == [3, 6]
    for shared, one in zip(stored["curve"], alone.curve, strict=True):
        assert math.isclose(shared["loss_bits_per_byte"], one["loss_bits_per_byte"], rel_tol=1e-4)


def test_the_checkpoint_of_a_sharded_run_goes_on_in_one_process(tmp_path):
    whole = fit(spec(), checkpoint_dir=tmp_path / "whole", progress=False)
    command = [sys.executable, Path(__file__).with_name("sharded_training.py"), tmp_path / "cut", "4"]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    assert torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["global_step"] == 3
    resumed = fit(spec(), checkpoint_dir=tmp_path / "cut", progress=False)
    for ours, theirs in zip(resumed.curve, whole.curve, strict=True):
        assert math.isclose(ours["loss_bits_per_byte"], theirs["loss_bits_per_byte"], rel_tol=1e-4)
    expected, got = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=1e-5)


def test_a_model_is_measured_in_the_number_format_of_its_training(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    a, kinds = (
        torch.randn(4, 4),
        {"32-true": torch.float32, "auto": torch.float32, "bf16-mixed": torch.bfloat16},
    )
    for precision, kind in kinds.items():
        with number_format(precision):
            assert (a @ a).dtype == kind
    seen = []
    monkeypatch.setattr(fitting, "evaluate", lambda *given: seen.append((a @ a).dtype) or {"recall": 0.0})
    fit(spec(precision="bf16-mixed"), progress=False)
    assert set(seen) == {torch.bfloat16}


def test_training_lowers_the_loss():
    result = fit(spec(steps=60, eval_every=20), progress=False)
    losses = [point["loss_bits_per_byte"] for point in result.curve]
    assert losses[-1] < losses[0]
    assert [point["step"] for point in result.curve] == [20, 40, 60]


def test_divergence_is_a_failed_result_that_names_the_step(monkeypatch):
    original = LitHybridLM.training_step

    def training_step(self, batch, index):
        if self.global_step == 1:
            self.model.lm_head.weight.data[0, 0] = float("nan")
        return original(self, batch, index)

    monkeypatch.setattr(LitHybridLM, "training_step", training_step)
    result = fit(spec(), progress=False)
    assert result.status == "failed"
    assert "step 1 of 6" in result.message


def test_schedule_warms_up_and_falls_to_a_tenth():
    train = TrainConfig(steps=100, warmup=10)
    factors = [learning_rate_factor(step, train) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_vectors_are_not_decayed():
    module = LitHybridLM(spec())
    module.configure_model()
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert sum(len(g["params"]) for g in groups) == len(list(module.parameters()))
    assert all(p.dim() < 2 for p in groups[1]["params"])


def test_decay_of_all_parameters_and_eps_reach_the_optimizer():
    module = LitHybridLM(spec(decay="all", eps=1e-15))
    module.configure_model()
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert {g["weight_decay"] for g in groups} == {0.1}
    assert {g["eps"] for g in groups} == {1e-15}


def break_a_gradient(monkeypatch, *steps: int):
    """At these steps the loss, and so every gradient, is infinite."""
    original = LitHybridLM.training_step

    def training_step(self, batch, index):
        loss = original(self, batch, index)
        return loss * (math.inf if self.global_step in steps else 1.0)

    monkeypatch.setattr(LitHybridLM, "training_step", training_step)


def test_a_step_without_a_finite_gradient_is_skipped(tmp_path, monkeypatch):
    """Skipped steps leave the weights of a run that ended before them."""
    fit(spec(steps=3, lr=1e-3, warmup=3), checkpoint_dir=tmp_path / "short", progress=False)
    break_a_gradient(monkeypatch, 3, 4, 5)
    long = spec(steps=6, lr=1e-3, warmup=3, skip_nonfinite=True)
    assert fit(long, checkpoint_dir=tmp_path / "long", progress=False).status == "done"
    expected, got = weights(tmp_path / "short"), weights(tmp_path / "long")
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_run_that_skips_but_never_recovers_has_diverged(monkeypatch):
    original = LitHybridLM.training_step

    def training_step(self, batch, index):
        if self.global_step == 1:
            self.model.lm_head.weight.data[0, 0] = float("nan")
        return original(self, batch, index)

    monkeypatch.setattr(LitHybridLM, "training_step", training_step)
    result = fit(spec(skip_nonfinite=True), progress=False)
    assert result.status == "failed" and "step 1 of 6" in result.message


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size of at least 384; got 300"):
        fit(spec(vocab_size=300), progress=False)
