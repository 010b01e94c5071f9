"""The published recipes: their sizes against printed tokens, and that they can be run."""

from dataclasses import replace

import pytest
import torch
from flat import flat_config

from hybrid.config import RunSpec, TaskConfig, TrainConfig
from hybrid.conversion.distillation import LitAlign, LitDistill, LitFinetune, convert, stage_tokens
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.presets import PRESETS
from hybrid.conversion.specs import AlignSpec, HybridSpec, Stage, student_config
from hybrid.data.passkeys import Passkeys
from hybrid.models.hybrid_lm import HybridLM
from hybrid.runs import trainers
from hybrid.training.loop import learning_rate_factor

MODEL = flat_config("FFF", vocab_size=282, hidden_size=8, mlp_size=16, attn_heads=2, conv=3, init_std=0.3)
TASK = TaskConfig(
    corpus_tokens=100_000,
    seq_len=16,
    pairs=(1, 2),
    recall_vocab=16,
    eval_pairs=(2,),
    eval_lengths=(16,),
    eval_sequences=4,
)
RUN = RunSpec(MODEL, TASK, TrainConfig(steps=2, batch_size=4, warmup=1, eval_every=2))
PASSKEYS = Passkeys(2, 1, (32,), (32, 40), 4)

M, B = 1e6, 1e9
HALO_FACTS = {
    "align": (320 * M, 20_000, 32, 512, 1e-3, 1e-5, None),
    "distill": (1 * B, 20_000, 96, 512, 1e-4, 1e-5, None),
    "finetune": (1 * B, 500, 128, 16_384, 1e-5, 1e-5, None),
}
FACTS = {
    "HALO": HALO_FACTS,
    "FlashMorph": HALO_FACTS,
    "RADLADS": {
        "align": (100 * M, None, 32, 512, 1e-3, 1e-5, None),
        "distill": (250 * M, None, 96, 512, 1e-5, 1e-5, None),
        "finetune": (100 * M, None, None, 16_384, 1e-5, 1e-5, None),
    },
    "RADLADS, step 2a": {
        "align": (100 * M, None, 32, 512, 1e-3, 1e-5, None),
        "distill": (600 * M, None, None, 4096, 1e-5, 1e-5, 1e-4),
    },
    "KL-LS": {
        "align": (100 * M, None, 96, 512, 1e-3, 1e-5, None),
        "distill": (600 * M, None, 32, 4096, 7e-6, 7e-6, 1e-4),
    },
}
"""Tokens, steps, sequences a step, their length, first and last learning rate and that of the mixers, as
printed; None of steps and sequences: not printed."""


@pytest.mark.parametrize("name", PRESETS)
def test_stages_are_as_printed(name):
    stages = PRESETS[name].stages
    assert list(stages) == list(FACTS[name])
    for stage_name, (tokens, steps, batch, length, first, last, mixers) in FACTS[name].items():
        stage = stages[stage_name]
        train, read = stage.train, stage_tokens(RUN, stage)
        assert train.batch_size == (batch or train.batch_size) and stage.seq_len == length
        if steps is None:
            assert 0 <= read - tokens < train.batch_size * length
        else:
            # Printed as 320M, 1B and 1B; the products are 327.68M, 983.04M and 1,048.576M.
            assert train.steps == steps and abs(read / tokens - 1) < 0.05
        assert stage.recall_fraction == 0 and stage.mixer_lr == mixers
        assert train.lr == first
        assert train.lr * learning_rate_factor(train.steps, train) == pytest.approx(last)
        assert (train.betas, train.clip, train.warmup, train.weight_decay) == ((0.9, 0.95), 1, 50, 0)


def test_recipes_of_one_protocol_share_what_they_share():
    halo, flashmorph = PRESETS["HALO"], PRESETS["FlashMorph"]
    assert (halo.stages, halo.drop_rope) == (flashmorph.stages, flashmorph.drop_rope)
    assert sum(stage_tokens(RUN, stage) for stage in halo.stages.values()) == pytest.approx(2.3e9, rel=0.03)
    assert PRESETS["RADLADS"].align == PRESETS["RADLADS, step 2a"].align
    assert {name for name, preset in PRESETS.items() if preset.drop_rope} == {"HALO", "FlashMorph"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_gives_specs_that_read_back(name):
    preset = PRESETS[name]
    align = preset.alignment(RUN, "gla", 3)
    spec = preset.hybrid(RUN, "gla", "LFL", seed=3, passkeys=PASSKEYS)
    assert align == AlignSpec(RUN, "gla", preset.align, seed=3) == spec.align
    assert spec == HybridSpec(
        align, "LFL", preset.distill, preset.finetune, preset.drop_rope, passkeys=PASSKEYS, seed=3
    )
    for one in (align, spec):
        back = trainers.read(one.to_dict())
        assert back == one and back.run_id == one.run_id
    assert preset.hybrid(RUN, "gla", "LFL").passkeys is None


def test_a_window_has_nothing_to_be_taught():
    with pytest.raises(ValueError, match="window is needed"):
        PRESETS["HALO"].alignment(RUN, "window")


def small(stage: Stage | None) -> Stage | None:
    """The stage at a thousandth of its length and few steps; its rates are its own."""
    if stage is None:
        return None
    train = replace(stage.train, steps=2, batch_size=2, warmup=1, eval_every=1)
    return replace(stage, train=train, seq_len=max(16, stage.seq_len // 512))


@pytest.mark.parametrize("name", ["HALO", "KL-LS"])
def test_a_recipe_runs_at_a_small_size(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path))
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    preset = replace(PRESETS[name], **{key: small(stage) for key, stage in PRESETS[name].stages.items()})
    spec = preset.hybrid(RUN, "gated_deltanet", "LFL", passkeys=PASSKEYS)
    result = convert(spec, progress=False)
    assert result.status == "done"
    assert [row["stage"] for row in result.metrics["stages"]] == ["converted", *list(FACTS[name])[1:]]
    lengths = {"HALO": [16, 32], "KL-LS": [16]}[name]
    assert result.provenance["tokens"] == 2 * 2 * sum(lengths)


def test_the_rate_of_mixers_is_positive_and_equal_stages_have_one_name():
    train = TrainConfig()
    for wrong in (0, -1e-4):
        with pytest.raises(ValueError, match=f"mixer_lr must be positive; got {float(wrong)}"):
            Stage(train, mixer_lr=wrong)
    ids = [AlignSpec(RUN, "gla", Stage(train, mixer_lr=value)).run_id for value in (1, 1.0, None)]
    assert ids[0] == ids[1] != ids[2]


GLA = ["q_proj", "k_proj", "v_proj", "g_proj", "gk_proj.0", "gk_proj.1", "o_proj", "g_norm_swish_gate"]
GLA += [f"{part}_conv1d" for part in "qkv"]
FULL = ["q_proj", "k_proj", "v_proj", "o_proj", "q_conv1d", "k_conv1d", "v_conv1d"]
HAND_WRITTEN = {
    *(f"model.model.layers.{block}.attn.{part}.weight" for block in (0, 2) for part in GLA),
    *(f"model.model.layers.{block}.attn.gk_proj.1.bias" for block in (0, 2)),
    *(f"model.model.layers.1.attn.{part}.weight" for part in FULL),
}


def moved_in_one_step(module) -> dict[str, float]:
    """The largest change of each parameter in AdamW's first step, of which each entry's is its rate."""
    optimizer = module.configure_optimizers()["optimizer"]
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    torch.manual_seed(3)
    ids = torch.randint(256, (2, 12))
    module.loss({"input_ids": ids, "labels": ids}).backward()
    optimizer.step()
    return {name: (p.detach() - before[name]).abs().max().item() for name, p in module.named_parameters()}


@pytest.mark.parametrize("kind", [LitDistill, LitFinetune])
@pytest.mark.parametrize("mixer_lr", [3e-3, None])
def test_the_rate_of_mixers_reaches_them_and_nothing_else(kind, mixer_lr):
    torch.manual_seed(0)
    teacher, student = HybridLM(MODEL), HybridLM(student_config(MODEL, "LFL", "gla"))
    stage = Stage(TrainConfig(lr=1e-4, warmup=0, weight_decay=0.0, eps=1e-30), mixer_lr=mixer_lr)
    module = kind(teacher, student, stage) if kind is LitDistill else kind(student, stage)
    moved = moved_in_one_step(module)
    assert moved.keys() > HAND_WRITTEN
    for name, step in moved.items():
        rate = mixer_lr if mixer_lr and name in HAND_WRITTEN else 1e-4
        assert step == pytest.approx(rate, rel=1e-2), name


def test_the_bounds_that_mixers_share_learn_at_their_rate():
    torch.manual_seed(0)
    student = HybridLM(student_config(MODEL, "LLL", "hgrn2"))
    stage = Stage(TrainConfig(lr=1e-4, warmup=0, weight_decay=0.0, eps=1e-30), mixer_lr=3e-3)
    moved = moved_in_one_step(LitFinetune(student, stage))
    assert moved["model.model.lower_bounds"] == pytest.approx(3e-3, rel=1e-2)
    assert moved["model.model.layers.0.attn_norm.weight"] == pytest.approx(1e-4, rel=1e-2)


def test_alignment_teaches_mixers_alone_so_all_of_it_learns_at_their_rate():
    torch.manual_seed(0)
    stage = Stage(TrainConfig(lr=1e-4, warmup=0, weight_decay=0.0, eps=1e-30), mixer_lr=3e-3)
    module = LitAlign(Morphable(HybridLM(MODEL), "gla"), stage)
    moved = moved_in_one_step(module)
    learnt = {name for name, p in module.named_parameters() if p.requires_grad}
    assert learnt and all(moved[name] == pytest.approx(3e-3, rel=1e-2) for name in learnt)
    assert all(moved[name] == 0 for name in moved.keys() - learnt)


def test_the_schedule_scales_both_rates():
    student = HybridLM(MODEL)
    stage = Stage(TrainConfig(lr=1e-4, steps=20, warmup=4, final=0.1), mixer_lr=3e-3)
    made = LitFinetune(student, stage).configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for step in range(20):
        factor = learning_rate_factor(step, stage.train)
        rates = {round(group["lr"] / factor, 12) for group in optimizer.param_groups}
        assert rates == {1e-4, 3e-3}
        optimizer.step()
        schedule.step()
