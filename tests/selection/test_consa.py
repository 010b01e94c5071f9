"""Both stages of ConSA and its arms on a model of a few milliseconds, and what a spec refuses."""

import re
from dataclasses import replace

import pytest
import torch
from tiny_problem import PASSKEYS, TASK, config, text

from hybrid.config import AttentionConfig, RunSpec, TrainConfig
from hybrid.conversion.distillation import device
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec, Stage
from hybrid.data.module import TaskData
from hybrid.models.hybrid_lm import HybridLM
from hybrid.selection import consa as module
from hybrid.selection.consa import consa
from hybrid.selection.consa_spec import ConsaSpec
from hybrid.training.evaluation import text_loss

TRAIN = TrainConfig(steps=4, batch_size=3, warmup=0, lr=1e-2, eval_every=2)
MODEL = replace(config(4), attention=AttentionConfig(num_heads=4, num_kv_heads=2))
ALIGN = AlignSpec(RunSpec(MODEL, replace(TASK, eval_sequences=3), TRAIN), "window", window=5)
LINEAR = replace(ALIGN, branch="gla", window=None)
SPEC = ConsaSpec(
    ALIGN,
    Stage(TRAIN),
    Stage(replace(TRAIN, steps=2)),
    share=0.5,
    passkeys=replace(PASSKEYS, eval_sequences=3),
)
FREE = {"share": None, "method": "dense"}
GIVEN = {"method": "given", "given": "FWWF"}


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """A random model in place of a trained one."""
    text(monkeypatch)

    def aligned(spec: AlignSpec) -> Morphable:
        torch.manual_seed(4)
        return Morphable(HybridLM(spec.teacher.model), spec.branch, spec.window).to(device()).eval()

    monkeypatch.setattr(module, "aligned", lambda spec: aligned(spec).requires_grad_(False))


class Spy:
    """Keeps the trained modules, and the first step's gradients, of every stage; may stop one half-way."""

    def __init__(self, monkeypatch, stop: tuple[int, int] | None = None) -> None:
        self.modules, train = [], module.train

        def spied(lit, *args, **kwargs):
            stage = len(self.modules)
            self.modules.append(lit)
            if stop is not None and stop[0] == stage:
                loss, left = lit.loss, iter(range(stop[1]))

                def stopping(batch):
                    if next(left, None) is None:
                        raise KeyboardInterrupt
                    return loss(batch)

                lit.loss = stopping
            return train(lit, *args, **kwargs)

        monkeypatch.setattr(module, "train", spied)


def states(spy: Spy) -> list[dict]:
    return [{name: p.clone() for name, p in lit.state_dict().items()} for lit in spy.modules]


@pytest.mark.parametrize(
    ("changes", "units"),
    [
        ({}, 4),
        ({"units": "head"}, 8),
        ({"units": "head", "scope": "layer"}, 8),
        ({"align": LINEAR}, 4),
        ({"method": "l1"}, 4),
    ],
)
def test_weights_and_masks_learn_then_masks_are_fixed(monkeypatch, changes, units):
    spec, spy = replace(SPEC, **changes), Spy(monkeypatch)
    result = consa(spec, progress=False)
    learn, fixed = spy.modules
    assert result.status == "done", result.message
    start = module.aligned(spec.align).teacher.state_dict()
    trained = learn.masked.model if spec.align.branch == "window" else learn.masked.morphable.teacher
    assert all((p != start[name].to(p)).any() for name, p in trained.named_parameters())
    assert (learn.scores() < (1 if spec.method == "l1" else 5)).any()
    rows = result.metrics["masks"]
    assert len(rows) == units and {row["head"] for row in rows} == ({0, 1} if units == 8 else {None})
    assert [row["alpha"] for row in rows] == learn.scores().flatten().tolist()
    full = torch.tensor([row["z"] for row in rows]).view(4, -1).bool()
    assert torch.equal(full, learn.chosen().cpu())
    assert str(fixed.model.config.layout) == result.metrics["layout"]
    assert sum(row["top"] for row in rows) == units / 2
    assert result.metrics["ranked"] == 0.5
    assert result.metrics["rounded"] == pytest.approx(1 - full.float().mean().item())
    names = [row["stage"] for row in result.metrics["stages"]]
    assert names == ["dense", "learn", "train"]
    assert {(row["stage"], row["length"]) for row in result.metrics["passkey_by"]} == {
        (name, length) for name in names for length in (41, 64)
    }
    assert result.metrics["loss_bits_per_byte"] == result.metrics["stages"][-1]["loss_bits_per_byte"]
    assert [(point["stage"], point["step"]) for point in result.curve] == [
        ("learn", 2),
        ("learn", 4),
        ("train", 2),
    ]
    assert result.provenance["tokens"] == 6 * 3 * 64 and result.provenance["seconds"] > 0
    assert "expected" in result.curve[0] and "text_loss" in result.curve[0]


def test_a_multiplier_stays_below_its_cap_and_gates_stay_in_range(monkeypatch):
    spy = Spy(monkeypatch)
    consa(replace(SPEC, ramp=0.0, multiplier_lr=1.0, phi_cap=0.5), progress=False)
    consa(replace(SPEC, method="l1", mask_lr=5.0), progress=False)
    assert spy.modules[0].phi.item() == 0.5
    gates = spy.modules[2].gates
    assert gates.min() >= 0 and gates.max() <= 1 and gates.unique().numel() > 1


def test_rounding_some_heads_gives_full_heads(monkeypatch):
    full = torch.tensor([[1, 1], [0, 1], [0, 0], [1, 0]]).bool()
    monkeypatch.setattr(module.LitLagrangian, "chosen", lambda self: full)
    spy = Spy(monkeypatch)
    result = consa(replace(SPEC, units="head"), progress=False)
    model = spy.modules[1].model.config
    assert (result.metrics["layout"], model.window.full_heads) == ("FWWW", ((), (1,), (), (0,)))
    assert [row["full"] for row in result.metrics["pattern"]] == [1, 0.5, 0, 0.5]
    assert [row["letter"] for row in result.metrics["pattern"]] == list("FWWW")


@pytest.mark.parametrize(
    ("changes", "layout", "heads"),
    [
        (FREE, "FFFF", None),
        ({"method": "rule"}, "WFWF", None),
        ({"method": "rule", "align": LINEAR}, "LFLF", None),
        ({"method": "rule", "units": "head"}, "WWWW", ((1,),) * 4),
        (GIVEN, "FWWF", None),
        ({"method": "given", "given": "LLFF", "align": LINEAR}, "LLFF", None),
    ],
)
def test_arms_without_learnt_masks_train_as_long(monkeypatch, changes, layout, heads):
    spy = Spy(monkeypatch)
    result = consa(replace(SPEC, **changes), progress=False)
    assert [str(lit.model.config.layout) for lit in spy.modules] == [layout] * 2
    model = spy.modules[1].model
    assert model is spy.modules[0].model
    assert (model.config.window and model.config.window.full_heads) == heads
    assert [lit.config.steps for lit in spy.modules] == [4, 2]
    assert result.provenance["tokens"] == 6 * 3 * 64
    assert {row["alpha"] for row in result.metrics["masks"]} == {None}
    assert result.metrics["rounded"] == (0 if changes is FREE else 0.5)
    assert [result.metrics[name] for name in ("expected", "ranked", "gap", "reached", "held")] == [None] * 5


def test_arms_read_the_same_batches(monkeypatch):
    read, made = {}, TaskData.train_batch
    for method in ("lagrangian", "l1", "rule", "dense"):
        batches = read[method] = []

        def spied(data, *args, batches=batches):
            batch = made(data, *args)
            batches.append(batch["input_ids"])
            return batch

        monkeypatch.setattr(TaskData, "train_batch", spied)
        consa(replace(SPEC, method=method, share=None if method == "dense" else 0.5), progress=False)
    assert torch.cat(read["dense"]).numel() == 6 * 3 * 64
    assert all(torch.equal(torch.cat(ids), torch.cat(read["dense"])) for ids in read.values())


@pytest.mark.parametrize("method", ["lagrangian", "l1"])
@pytest.mark.parametrize("stop", [(0, 3), (1, 3)])
def test_a_stopped_run_goes_on_bit_equal(monkeypatch, tmp_path, method, stop):
    spec = replace(SPEC, method=method, train=Stage(TRAIN))
    with monkeypatch.context() as patch:
        whole = Spy(patch)
        expected = consa(spec, checkpoint_dir=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        Spy(patch, stop)
        with pytest.raises(BaseException) as raised:
            consa(spec, checkpoint_dir=tmp_path / "cut", progress=False)
        assert raised.type in (KeyboardInterrupt, SystemExit)
    resumed = Spy(monkeypatch)
    result = consa(spec, checkpoint_dir=tmp_path / "cut", progress=False)
    for ours, theirs in zip(states(resumed), states(whole), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert result.curve == expected.curve and result.metrics == expected.metrics


def test_rounding_alone_changes_the_model_before_stage_two(monkeypatch):
    """What is measured after stage 1 is the rounded model with the weights of stage 1."""
    seen = []
    spied = module.after_stage
    monkeypatch.setattr(
        module, "after_stage", lambda model, *rest: seen.append(model.config) or spied(model, *rest)
    )
    half = torch.tensor([[1], [0], [0], [1]]).bool()
    monkeypatch.setattr(module.LitLagrangian, "chosen", lambda self: half)
    spy = Spy(monkeypatch)
    rounded, train = [], module.train

    def before_training(lit, *args, **kwargs):
        if len(spy.modules) == 1:
            data = TaskData(ALIGN.teacher.task, ALIGN.teacher.train, 0)
            rounded.append(text_loss(spy.modules[0].masked.rounded(half), data)["loss_bits_per_byte"])
        return train(lit, *args, **kwargs)

    monkeypatch.setattr(module, "train", before_training)
    result = consa(SPEC, progress=False)
    assert [str(config.layout) for config in seen] == ["FFFF", "FWWF", "FWWF"]
    assert result.metrics["stages"][1]["loss_bits_per_byte"] == rounded[0]


@pytest.mark.filterwarnings("ignore")
def test_a_diverged_stage_makes_a_failed_result():
    wild = Stage(replace(TRAIN, lr=1e30))
    result = consa(replace(SPEC, learn=wild), progress=False)
    assert result.status == "failed" and "not finite" in result.message
    assert [row["stage"] for row in result.metrics["stages"]] == ["dense"]


def test_a_spec_reads_back():
    linear = {"align": LINEAR, "method": "rule"}
    for changes in ({}, {"units": "head", "scope": "layer"}, FREE, linear, GIVEN):
        spec = replace(SPEC, **changes)
        back = ConsaSpec.from_dict(spec.to_dict())
        assert back == spec and back.run_id == spec.run_id
    assert len({replace(SPEC, share=share).run_id for share in (0.25, 0.5, 0.75)}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "greedy"}, "unknown method 'greedy'; allowed: lagrangian, l1, rule, given, dense"),
        ({"units": "token"}, "unknown units 'token'; allowed: layer, head"),
        ({"scope": "some"}, "unknown scope 'some'; allowed: all, layer"),
        ({"scope": "layer"}, "units must be 'head'; got 'layer'"),
        ({"units": "head", "align": LINEAR}, "needs the branch 'window'; got branch 'gla'"),
        *[({"share": share}, f"share .*; got {share!r}") for share in (0.0, 1.0, -0.5, 1.5, None, 0.01)],
        ({"share": 0.2, "units": "head", "scope": "layer"}, "some of 2 units .*; got 0.2"),
        ({"share": 0.2, "units": "head", "method": "rule"}, "some of 2 units .*; got 0.2"),
        ({"method": "dense"}, "dense does not read share: leave it at None; got 0.5"),
        (FREE | {"units": "head"}, "dense does not read units: leave it at 'layer'; got 'head'"),
        ({"method": "rule", "mask_lr": 0.2}, "rule does not read mask_lr"),
        ({"method": "l1", "phi_cap": 1.0}, "l1 does not read phi_cap"),
        ({"l1": 0.1}, "lagrangian does not read l1"),
        ({"given": "FWWF"}, "lagrangian does not read given: leave it at None; got 'FWWF'"),
        *[
            ({"method": "given", "given": given}, f"given must be a layout of 4 blocks, 2 of .*; got {given}")
            for given in (None, "FFF", "FWWW")
        ],
        ({"mask_lr": 0.0}, "mask_lr must be positive; got 0.0"),
        ({"multiplier_lr": -1.0}, "multiplier_lr must be positive; got -1.0"),
        ({"phi_cap": 0.0}, "phi_cap must be positive; got 0.0"),
        ({"ramp": 1.5}, "ramp must be between 0 and 1; got 1.5"),
        ({"method": "l1", "l1": -0.1}, "l1 must be at least 0; got -0.1"),
        ({"align": replace(ALIGN, window=64)}, "below the 64 tokens of a sequence of learn.*; got 64"),
        (
            {"align": replace(ALIGN, window=70), "learn": Stage(TRAIN, seq_len=128)},
            "below the 64 tokens of a sequence of train.*; got 70",
        ),
        ({"learn": Stage(replace(TRAIN, precision="bf16-true"))}, "must not be bf16-true"),
        ({"seed": -1}, "seed must be a whole number from 0; got -1"),
    ],
)
def test_bad_specs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message if "*" in message else re.escape(message)):
        replace(SPEC, **changes)
