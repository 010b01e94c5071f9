"""Conversion: what is carried over, whose gradient moves what, and stages that a stop does not change."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from flat import flat_config
from torch.distributions import Categorical, kl_divergence

from hybrid.checkpoints.checkpoint import load
from hybrid.config import MIXERS, ModelConfig, RunSpec, TaskConfig, TrainConfig
from hybrid.conversion import distillation
from hybrid.conversion.carry_over import carry_over
from hybrid.conversion.distillation import LitAlign, LitDistill, LitFinetune, aligned, convert
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec, HybridSpec, Stage, student_config
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.models.hybrid_lm import HybridLM

TEACHER = flat_config(
    "FFF", vocab_size=282, hidden_size=16, mlp_size=24, attn_heads=4, attn_kv_heads=2, conv=3, init_std=0.3
)
TASK = TaskConfig(
    corpus_tokens=100_000,
    seq_len=16,
    pairs=(1, 2),
    recall_vocab=16,
    eval_pairs=(2,),
    eval_lengths=(16,),
    eval_sequences=4,
)
TRAIN = TrainConfig(steps=4, batch_size=4, warmup=1, eval_every=2, lr=1e-2)
STAGE = Stage(TRAIN)
RUN = RunSpec(TEACHER, TASK, TRAIN)
PASSKEYS = Passkeys(2, 1, (32,), (32, 40), 4)
LINEAR = sorted(set(MIXERS) - {"mamba2"})
TAKEN = {mixer: {"q": "q", "k": "k", "v": "v", "o": "o"} for mixer in LINEAR} | {
    "hgrn": {"i": "v", "o": "o"},
    "hgrn2": {"q": "q", "f": "k", "i": "v", "o": "o"},
}


def model(config: ModelConfig = TEACHER, seed: int = 0) -> HybridLM:
    torch.manual_seed(seed)
    return HybridLM(config)


def expanded(weight: torch.Tensor) -> torch.Tensor:
    """Rows of two key-value heads of four channels, once for each of the two query heads that read them."""
    return torch.cat([weight[0:4], weight[0:4], weight[4:8], weight[4:8]])


@pytest.mark.parametrize("mixer", LINEAR)
def test_a_linear_mixer_takes_the_rows_of_the_heads_it_replaces(mixer):
    teacher, student = model(), model(student_config(TEACHER, "LFL", mixer), seed=1)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    source = dict(teacher.named_parameters())
    expected = {}
    for block in (0, 2):
        prefix = f"model.layers.{block}.attn"
        for ours, theirs in TAKEN[mixer].items():
            for kind in ("proj", "conv1d"):
                if f"{prefix}.{ours}_{kind}.weight" in before:
                    weight = source[f"{prefix}.{theirs}_{kind}.weight"]
                    weight = expanded(weight) if theirs in ("k", "v") else weight
                    # What HGRN-2 does not keep is its key: sigmoid(-f).
                    weight = -weight if (mixer, ours, kind) == ("hgrn2", "f", "proj") else weight
                    expected[f"{prefix}.{ours}_{kind}.weight"] = weight
    assert len(expected) == 2 * (2 * len(TAKEN[mixer]) - 1)
    assert set(carry_over(teacher, student)) == set(expected)
    for name, parameter in student.named_parameters():
        new = any(name.startswith(f"model.layers.{block}.attn.") for block in (0, 2)) or "bounds" in name
        assert torch.equal(parameter, expected.get(name, before[name]) if new else source[name]), name


def test_mamba2_takes_rows_of_its_one_projection():
    teacher, student = model(), model(student_config(TEACHER, "LFL", "mamba2"), seed=1)
    drawn = student.model.layers[0].attn.in_proj.weight.detach().clone()
    names = carry_over(teacher, student)
    assert {name.split(".attn.")[1] for name in names} == {"in_proj.weight", "out_proj.weight"}
    theirs, ours = (m.model.layers[0].attn for m in (teacher, student))
    v, k = expanded(theirs.v_proj.weight), expanded(theirs.k_proj.weight)
    gate, step = drawn[:16], drawn[64:]
    assert torch.equal(ours.in_proj.weight, torch.cat([gate, v, k, theirs.q_proj.weight, step]))
    assert torch.equal(ours.out_proj.weight, theirs.o_proj.weight)


def test_the_sign_of_what_is_carried_is_that_of_the_formula():
    """HGRN-2 that takes a teacher's projections must score a pair of tokens the higher, the higher attention
    does: its keys, 1 - sigmoid(f), grow with attention's."""
    torch.manual_seed(0)
    teacher = model(
        flat_config("F", vocab_size=20, hidden_size=16, attn_heads=4, init_std=0.3, rope_theta=None)
    )
    student = model(student_config(teacher.config, "L", "hgrn2"), seed=1)
    carry_over(teacher, student)
    x = torch.randn(200, 16)
    key = torch.sigmoid(-student.model.layers[0].attn.f_proj(x))
    attention = teacher.model.layers[0].attn.k_proj(x)
    assert torch.corrcoef(torch.stack((key[:, 0], attention[:, 0])))[0, 1] > 0.9


def test_a_mixer_that_takes_nothing_says_so():
    config = replace(TEACHER, attention=replace(TEACHER.attention, head_dim=6))
    teacher, student = model(config), model(student_config(config, "LFL", "hgrn"), seed=1)
    with pytest.warns(UserWarning, match="hgrn takes nothing over from the teacher.*4 heads of 6 channels"):
        assert carry_over(teacher, student) == []


@pytest.mark.parametrize("unused", sorted(MIXERS))
def test_a_teacher_converts_whatever_mixer_it_was_described_with(unused):
    """The MLP of a Transformer was narrower when its unused mixer was RetNet, and so was that of a student
    with a RetNet branch: conversion failed when the teacher had been trained."""
    config = flat_config("FF", unused, vocab_size=20, hidden_size=16, attn_heads=2)
    teacher = model(config)
    for branch in sorted(MIXERS):
        student = model(student_config(config, "LF", branch))
        carry_over(teacher, student)
        assert (
            student.model.layers[0].mlp.up_proj.weight.shape
            == teacher.model.layers[0].mlp.up_proj.weight.shape
        )


def test_a_window_takes_everything():
    teacher, student = model(), model(student_config(TEACHER, "LFL", "window", 4), seed=1)
    assert carry_over(teacher, student) == []
    source = dict(teacher.named_parameters())
    assert all(torch.equal(parameter, source[name]) for name, parameter in student.named_parameters())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((replace(TEACHER, layout="FLF", linear="deltanet"), "LLL", "gla"), "in every block; got layout FLF"),
        ((TEACHER, "LL", "gla"), "must have the teacher's 3 blocks; got LL"),
        ((TEACHER, "LLL", "mamba"), "unknown branch 'mamba'; allowed: .*retnet, window"),
        ((TEACHER, "LLL", "window"), "window is needed if and only if .* got None"),
        ((TEACHER, "LLL", "gla", 4), "window is needed if and only if .* got 4"),
    ],
)
def test_impossible_hybrids_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        student_config(*arguments)


def test_impossible_specs_are_refused():
    with pytest.raises(ValueError, match="stage must be None"):
        AlignSpec(RUN, "window", STAGE, window=4)
    with pytest.raises(ValueError, match="seed must be a whole number from 0; got -1"):
        AlignSpec(RUN, "gla", seed=-1)
    with pytest.raises(ValueError, match="drop_rope must be False"):
        HybridSpec(AlignSpec(RUN, "window", window=4), "LFL", drop_rope=True)
    with pytest.raises(ValueError, match="3 blocks; got LFLL"):
        HybridSpec(AlignSpec(RUN, "gla"), "LFLL")


@pytest.mark.parametrize("branch", ["gla", "hgrn2", "gated_deltanet"])
def test_alignment_teaches_the_second_mixers_each_by_its_own_error(branch):
    torch.manual_seed(0)
    morphable = Morphable(model(), branch)
    batch = {"input_ids": torch.randint(256, (3, 13))}
    loss = LitAlign(morphable, STAGE).loss(batch)
    pairs = morphable.teacher_forced(batch["input_ids"])
    by_hand = [((a - b) ** 2).sum().item() / a.numel() for a, b in pairs]
    assert loss.item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)
    loss.backward()
    learnt = {name for name, p in morphable.named_parameters() if p.grad is not None and p.grad.any()}
    assert learnt and all(".attn." in n or n.endswith("lower_bounds") for n in learnt)
    assert all(name.startswith("student.") for name in learnt)
    for index, (full, second) in enumerate(pairs):
        morphable.zero_grad()
        (full - second).square().mean().backward(retain_graph=True)
        moved = {n for n, p in morphable.named_parameters() if p.grad is not None and p.grad.any()}
        own = {n for n in learnt if n.startswith(f"student.model.layers.{index}.")}
        assert own <= moved <= own | {"student.model.lower_bounds"}


def test_distillation_is_the_forward_divergence():
    teacher, student = model(), model(student_config(TEACHER, "LFL", "gla"), seed=1)
    ids = torch.randint(256, (3, 13))
    module = LitDistill(teacher, student, STAGE)
    loss = module.loss({"input_ids": ids})
    p, q = (Categorical(logits=m(ids).logits) for m in (teacher, student))
    assert loss.item() == pytest.approx(kl_divergence(p, q).mean().item(), rel=1e-4)
    assert loss.item() != pytest.approx(kl_divergence(q, p).mean().item(), rel=1e-2)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert {name for name, _ in module.named_parameters()} == {
        f"model.{n}" for n, _ in student.named_parameters()
    }
    assert LitDistill(teacher, model(), STAGE).loss({"input_ids": ids}).item() == pytest.approx(0, abs=1e-6)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty cache and an empty store."""

    def make(name: str):
        monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / name))
        monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / name / "results"))
        return tmp_path / name

    make("cache")
    return make


def test_second_mixers_are_taught_once_and_do_not_depend_on_when_the_teacher_was(empty, monkeypatch):
    """The second time the teacher lies ready, and nothing is drawn for its training."""
    spec = AlignSpec(RUN, "gated_deltanet", STAGE)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "saved as model_type")
        first = aligned(spec)
    untaught = aligned(replace(spec, stage=None)).student.state_dict()
    assert not any(parameter.requires_grad for parameter in first.parameters())
    taught = first.student.state_dict()
    moved = {name for name in taught if not torch.equal(taught[name], untaught[name])}
    assert moved and all(".attn." in name for name in moved)
    trainings = []
    original = distillation.train
    monkeypatch.setattr(distillation, "train", lambda *a, **k: trainings.append(a) or original(*a, **k))
    again = aligned(spec).student.state_dict()
    assert not trainings
    assert all(torch.equal(again[name], taught[name]) for name in taught)
    empty("elsewhere")
    cold = aligned(replace(spec, stage=None)).student.state_dict()
    assert all(torch.equal(cold[name], untaught[name]) for name in cold)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("kind", [LitDistill, LitFinetune])
def test_a_stopped_conversion_goes_on_to_the_same_model(empty, tmp_path, monkeypatch, recwarn, kind):
    align = AlignSpec(RUN, "gla", STAGE)
    spec = HybridSpec(align, "LFL", STAGE, replace(STAGE, seq_len=24), passkeys=PASSKEYS)
    whole = convert(spec, checkpoint_dir=tmp_path / "whole", progress=False)
    original = kind.loss

    def loss(self, batch):
        if self.global_step == 3:
            raise Stopped
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "loss", loss)
        with pytest.raises(Stopped):
            convert(spec, checkpoint_dir=tmp_path / "cut", progress=False)
    resumed = convert(spec, checkpoint_dir=tmp_path / "cut", progress=False)
    assert (resumed.metrics, resumed.curve) == (whole.metrics, whole.curve)
    for name in ("distill", "finetune"):
        cut, straight = (
            torch.load(tmp_path / run / name / "last.ckpt", weights_only=True) for run in ("cut", "whole")
        )
        assert cut["global_step"] == straight["global_step"] == 4
        assert cut["state_dict"].keys() == straight["state_dict"].keys()
        assert all(torch.equal(cut["state_dict"][n], straight["state_dict"][n]) for n in cut["state_dict"])
    assert [row["stage"] for row in whole.metrics["stages"]] == ["converted", "distill", "finetune"]
    assert [(point["stage"], point["step"]) for point in whole.curve] == [
        ("distill", 2),
        ("distill", 4),
        ("finetune", 2),
        ("finetune", 4),
    ]
    lengths = [row["length"] for row in whole.metrics["passkey_by"] if row["distance"] is None]
    assert lengths == [32, 40] * 3
    assert whole.provenance["tokens"] == 4 * 4 * (16 + 24)
    assert not [str(w.message) for w in recwarn if "eval mode" in str(w.message)]


def test_a_teacher_that_cannot_read_the_passkeys_is_refused_before_it_is_trained(empty):
    folder = empty("nothing")
    small = replace(RUN, model=replace(TEACHER, vocab_size=272))
    with pytest.raises(ValueError, match="vocab_size of at least 273; got 272"):
        convert(HybridSpec(AlignSpec(small, "gla"), "LFL", passkeys=PASSKEYS), progress=False)
    assert not folder.exists()


def test_a_converted_model_can_be_kept(empty, tmp_path, capsys):
    """From the command line; what is saved gives the stored loss, and bad requests train nothing."""
    from hybrid import cli
    from hybrid.runs.store import Store
    from hybrid.training.evaluation import text_loss

    spec = HybridSpec(AlignSpec(RUN, "gla", STAGE), "FLF", STAGE, passkeys=PASSKEYS)
    path, folder = tmp_path / "spec.json", tmp_path / "model"
    path.write_text(json.dumps(spec.to_dict()))
    command = ["train", "--quiet", "--spec", str(path), "--weights", str(folder)]
    assert cli.main(command) == 0
    kept, result = load(folder), Store().read(spec)
    assert str(kept.config.layout) == "FLF" and kept.config.linear.mixer == "gla"
    loss = text_loss(kept.to(distillation.device()), TaskData(TASK, TRAIN, RUN.seed))
    assert loss["loss_bits_per_byte"] == pytest.approx(result.metrics["loss_bits_per_byte"], rel=1e-6)

    assert cli.main(command) == 2 and f"got {folder}" in capsys.readouterr().err
    path.write_text(json.dumps(spec.align.to_dict()))
    assert cli.main([*command[:-1], str(tmp_path / "other")]) == 2
    assert "no model is left of work of kind 'align'" in capsys.readouterr().err
