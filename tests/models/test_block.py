"""Blocks of every letter against formulas, parts side by side, and losses that blocks have of their own."""

import pytest
import torch
import torch.nn.functional as F
from flat import flat_config, parts
from torch import nn

from hybrid.config import EXPERTS, MIXERS, ExpertsConfig, ModelConfig, RunSpec, TaskConfig, TrainConfig
from hybrid.config.layout import LETTERS
from hybrid.conversion.morphable import Morphable
from hybrid.figures.stack import stack
from hybrid.models.hybrid_lm import HybridLM
from hybrid.models.mlps import Experts
from hybrid.training.fit import LitHybridLM

SIZES = {"vocab_size": 30, "hidden_size": 32, "mlp_size": 24, "attn_heads": 2, "window": 5}


def built(layout: str, mixer: str = "gla", **more) -> HybridLM:
    torch.manual_seed(0)
    model = HybridLM(flat_config(layout, mixer, **SIZES | more)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


@pytest.mark.parametrize("letter", sorted(set(LETTERS) - {"e"}))
def test_a_block_is_its_branches(letter):
    block = built(letter).model.layers[0]
    x, kind = torch.randn(2, 9, 32, dtype=torch.float64), LETTERS[letter]
    expected = x
    if kind.mixers:
        expected = expected + block.attn(rms(expected, block.attn_norm.weight))[0]
    if kind.mlp:
        z, mlp = rms(expected, block.mlp_norm.weight), block.mlp
        gate = F.silu(z @ mlp.gate_proj.weight.mT)
        expected = expected + (gate * (z @ mlp.up_proj.weight.mT)) @ mlp.down_proj.weight.mT
    y, state, loss = block(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert loss is None and (state is None) == (not kind.mixers)
    assert (block.attn is None, block.mlp is None) == (not kind.mixers, kind.mlp is None)
    names = {name.split(".")[0] for name, _ in block.named_parameters()}
    assert names == ({"attn", "attn_norm"} if kind.mixers else set()) | (
        {"mlp", "mlp_norm"} if kind.mlp else set()
    )


def test_squared_relu_is_its_formula():
    mlp = built("m", mlp_kind="squared_relu").model.layers[0].mlp
    x = torch.randn(3, 32, dtype=torch.float64)
    expected = (x @ mlp.up_proj.weight.mT).clamp_min(0) ** 2 @ mlp.down_proj.weight.mT
    torch.testing.assert_close(mlp(x)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mixer", sorted(MIXERS))
@torch.no_grad()
def test_side_by_side_is_the_sum_of_both_each_with_its_norm(mixer):
    heads = MIXERS[mixer].heads_like(2, 16)
    both = built("P", mixer, **heads).model.layers[0].attn
    x = torch.randn(2, 11, 32, dtype=torch.float64)
    shared = {"lower_bound": torch.linspace(0, 0.5, 32, dtype=torch.float64)} if both.uses_lower_bound else {}
    full, linear = both.full(x)[0], both.linear(x, **shared)[0]
    expected = rms(full, both.full_norm.weight) + rms(linear, both.linear_norm.weight)
    torch.testing.assert_close(both(x, **shared)[0], expected, rtol=1e-12, atol=1e-12)
    # Heads of half the width: one of both is about as large as either alone.
    assert both.full.head_dim == 8 and both.full.q_proj.out_features == 16
    # With norms of their own, scaling what a branch writes changes nothing but for their epsilon.
    last = [p for name, p in both.linear.named_parameters() if name in ("o_proj.weight", "out_proj.weight")]
    last[0].mul_(1e6)
    once = both(x, **shared)[0]
    last[0].mul_(1e3)
    torch.testing.assert_close(both(x, **shared)[0], once, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mixer", sorted(MIXERS))
@pytest.mark.parametrize("layout", ["PlmF", "lfwmp"])
@torch.no_grad()
def test_pieces_and_tokens_equal_one_pass_in_blocks_of_every_kind(layout, mixer):
    model = built(layout, mixer, **MIXERS[mixer].heads_like(2, 16))
    ids = torch.randint(30, (2, 23))
    state, logits = None, []
    for piece in ids.tensor_split([9, 10, 11, 20], dim=1):
        out = model(piece, state=state)
        state = out.state
        logits.append(out.logits)
    torch.testing.assert_close(torch.cat(logits, 1), model(ids).logits, rtol=1e-8, atol=1e-8)
    assert model.generate(ids[:, :7], 6).shape == (2, 13)


def test_positions_are_a_choice_of_the_letter():
    """Full attention without positions, windows with them: shuffling the far past changes nothing that the
    full block says of it, and the near past does."""
    fields = parts("FW", **SIZES | {"window": 4})
    fields["attention"] = ModelConfig(**fields).attention.__class__(2, rotary=None)
    model = HybridLM(ModelConfig(**fields))
    assert model.model.layers[0].attn.rotary is None and model.model.layers[1].attn.rotary.theta == 10_000
    full, x = model.model.layers[0].attn, torch.randn(1, 8, 32)
    shuffled = x[:, [3, 1, 0, 2, 5, 4, 6, 7]]
    torch.testing.assert_close(full(x)[0][:, -1], full(shuffled)[0][:, -1], rtol=1e-5, atol=1e-6)


@pytest.fixture
def routed(monkeypatch):
    """A layer of experts whose loss is a number of its own."""
    monkeypatch.setattr(EXPERTS, "classes", {})

    @EXPERTS.register("routed")
    class Routed(Experts):
        active = 0.25

        def __init__(self, config: ModelConfig) -> None:
            super().__init__()
            self.bank = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            self.router = nn.Parameter(torch.tensor([0.5]))

        def forward(self, x):
            return self.bank(x), 3 * self.router.sum().square()

    return Routed


def test_the_loss_of_a_block_reaches_training(routed):
    fields = parts("lele", "gla", **SIZES) | {"experts": ExpertsConfig("routed", 8, 2, 16)}
    config = ModelConfig(**fields)
    torch.manual_seed(0)
    module = LitHybridLM(RunSpec(config, TaskConfig(), TrainConfig()))
    module.model = HybridLM(config)
    for block in (1, 3):
        nn.init.constant_(module.model.model.layers[block].mlp.router, 0.5)
    ids = torch.randint(30, (2, 7))
    out = module.model(ids, labels=ids)
    assert out.auxiliary.item() == pytest.approx(2 * 3 * 0.25)
    assert out.objective.item() == pytest.approx(out.loss.item() + 1.5)
    loss = module.loss({"input_ids": ids, "labels": ids})
    assert loss.item() == pytest.approx(out.objective.item())
    loss.backward()
    # d (3 r^2) / d r = 6 r, whatever the text says.
    assert module.model.model.layers[1].mlp.router.grad.item() == pytest.approx(3.0)


def test_the_drawing_has_the_parts_of_the_block():
    def gids(layout):
        drawn = [patch.get_gid() for patch in stack(layout, "gla").axes[0].patches if patch.get_gid()]
        return [gid for gid in drawn if gid.startswith("mixer") or gid in ("mlp", "sum")]

    assert gids("L") == ["mixer-L-1", "sum", "mlp", "sum"]
    assert gids("lmP") == ["mixer-l-1", "sum", "mlp", "sum", "mixer-P-3", "sum", "mlp", "sum"]
    assert gids("le") == ["mixer-l-1", "sum", "mlp", "sum"]


@torch.no_grad()
def test_a_morphable_teacher_and_its_model_are_one_stack():
    """Gates of 0 and 1 give the hybrid of that layout, gates of 1 the teacher."""
    torch.manual_seed(0)
    teacher = HybridLM(flat_config("FFF", **SIZES))
    morphable = Morphable(teacher, "gla")
    ids = torch.randint(30, (2, 9))
    torch.testing.assert_close(morphable(ids, torch.ones(3)).logits, teacher(ids).logits)
    mixed = morphable(ids, torch.tensor([0.0, 1.0, 0.0])).logits
    torch.testing.assert_close(mixed, morphable.hybrid("LFL")(ids).logits)
