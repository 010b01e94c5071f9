"""The Lagrangian on a problem whose best masks are known: what each unit is worth is planted."""

from dataclasses import replace

import pytest
import torch
from flat import flat_config
from torch import nn

from hybrid.config import RunSpec, TaskConfig, TrainConfig
from hybrid.conversion.specs import AlignSpec, Stage
from hybrid.models.hybrid_lm import row_mean_loss
from hybrid.selection.consa_spec import ConsaSpec
from hybrid.selection.hard_concrete import exceeds, mean
from hybrid.selection.lagrangian import LitL1, LitLagrangian

STEPS = 400
BATCH = {"input_ids": torch.zeros(1, 1, dtype=torch.long), "labels": torch.zeros(1, 1, dtype=torch.long)}


class Worth(nn.Module):
    """A model whose loss falls with every unit that is full, by what the unit is worth, and with a weight."""

    def __init__(self, worth: torch.Tensor) -> None:
        super().__init__()
        self.worth = worth
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, input_ids, masks):
        right = (self.worth * (masks - 0.5)).sum() + self.weight
        return torch.stack((right, torch.zeros_like(right)), dim=-1)


def spec(units: str = "layer", steps: int = STEPS, **changes) -> ConsaSpec:
    model = flat_config("F" * 8, hidden_size=16, attn_heads=8, attn_kv_heads=4)
    course = TrainConfig(steps=steps, warmup=0, weight_decay=0.0, eval_every=steps)
    run = RunSpec(model, TaskConfig(), course)
    given = {"share": 0.5, "learn": Stage(course), "train": Stage(course)} | changes
    return ConsaSpec(AlignSpec(run, "window", window=8), units=units, **given)


def trained(given: ConsaSpec, worth: torch.Tensor, kind=LitLagrangian):
    """The loop of Lightning, which is slow on so small a model, by hand."""
    module = type(kind.__name__, (kind,), {"global_step": 0})(Worth(worth), given)
    made = module.configure_optimizers()
    for module.global_step in range(given.learn.train.steps):
        made["optimizer"].zero_grad()
        module.loss(BATCH).backward()
        module.configure_gradient_clipping(made["optimizer"], given.learn.train.clip)
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        with torch.no_grad():
            module.project()
    return module, module.measure()


def planted(best: torch.Tensor) -> torch.Tensor:
    """Worth of units, all of it positive, of the best about six times as much as of the others."""
    jitter = torch.rand(best.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(best, 1.2, 0.2) * (1 + 0.2 * jitter) * 8 / best.numel()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(("units", "count"), [("layer", 1), ("head", 4)])
def test_it_reaches_the_share_over_all_units_and_keeps_the_best(share, units, count):
    total = 8 * count
    order = torch.randperm(total, generator=torch.Generator().manual_seed(3))
    best = torch.zeros(total, dtype=torch.bool)
    best[order[: round((1 - share) * total)]] = True
    best = best.view(8, count)
    module, last = trained(spec(units, share=share), planted(best))
    assert abs(last["expected"] - share) < 0.05
    assert abs((~module.chosen()).sum() - share * total) <= 1
    assert (module.chosen() ^ best).sum() <= 1
    assert torch.equal(module.highest(), best)
    assert last["polarised"] > 0.9


def test_each_block_reaches_the_share_on_its_own():
    """The worth of the first blocks is far above that of the last; all the same each keeps its best half."""
    best = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]] * 2).bool()
    worth = planted(best) * torch.linspace(3, 0.2, 8).unsqueeze(1)
    alone, _ = trained(spec("head", scope="layer"), worth)
    together, _ = trained(spec("head", scope="all"), worth)
    assert alone.lam.shape == alone.phi.shape == (8,) and together.lam.shape == (1,)
    assert ((~alone.chosen()).sum(1) - 2).abs().max() <= 1
    assert (alone.chosen() ^ best).sum() <= 2
    counts = together.chosen().sum(1)
    assert abs(counts.sum() - 16) <= 1 and counts.max() > counts.min()


def test_the_loss_is_the_formula_and_ascends_in_the_multipliers():
    given = spec("head", scope="layer", share=0.25, ramp=0.0)
    module = LitLagrangian(Worth(torch.rand(8, 4)), given)
    with torch.no_grad():
        module.alpha.normal_()
        module.lam.normal_()
        module.phi.uniform_(0, 3)
    loss = module.loss(BATCH)
    noise = module.noise()
    s = torch.sigmoid((noise.log() - (1 - noise).log() + module.alpha) * 1.5)
    z = (1.2 * s - 0.1).clamp(0, 1)
    expected = row_mean_loss(module.masked(BATCH["input_ids"], z), BATCH["labels"])
    for block in range(8):
        gap = 1 - mean(module.alpha[block]).mean() - 0.25
        expected = expected + module.lam[block] * gap + module.phi[block] * gap**2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    before = module.lam.detach().clone(), module.phi.detach().clone(), module.alpha.detach().clone()
    optimizer = module.configure_optimizers()["optimizer"]
    optimizer.step()
    gaps = 1 - mean(before[2]).mean(1) - 0.25
    # A first step of Adam is the learning rate in the direction of the gradient.
    torch.testing.assert_close(module.lam - before[0], 0.02 * gaps.sign(), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(module.phi - before[1], torch.full((8,), 0.02), atol=1e-5, rtol=1e-3)
    descent = -0.1 * module.alpha.grad.sign()
    torch.testing.assert_close(module.alpha - before[2], descent, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", [LitLagrangian, LitL1])
def test_what_a_gpu_may_play_back_does_the_same_at_every_step(kind, monkeypatch):
    given = spec() if kind is LitLagrangian else spec(method="l1")
    module, losses = kind(Worth(torch.rand(8, 1)), given), []
    with torch.no_grad():
        module.scores().uniform_(0, 1)
    for step in (0, 5):
        monkeypatch.setattr(kind, "global_step", property(lambda self, step=step: step))
        losses.append(module.loss(BATCH).item())
    assert module.steady == (losses[0] == losses[1])


def test_weights_learn_and_are_clipped_without_the_masks():
    module = LitLagrangian(Worth(torch.rand(8, 1)), spec())
    groups = module.configure_optimizers()["optimizer"].param_groups
    ids = [{id(p) for p in group["params"]} for group in groups]
    assert ids == [{id(module.masked.weight)}, set(), {id(module.alpha)}, {id(module.lam), id(module.phi)}]
    assert [group["weight_decay"] for group in groups[2:]] == [0, 0]
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 0.1, 0.02]
    assert [group["maximize"] for group in groups] == [False, False, False, True]
    optimizer = module.configure_optimizers()["optimizer"]
    module.masked.weight.grad, module.alpha.grad = torch.full((1, 1), 5.0), torch.full((8, 1), 7.0)
    module.configure_gradient_clipping(optimizer, 1.0)
    assert module.masked.weight.grad.item() == pytest.approx(1)
    assert (module.alpha.grad == 7).all()


def test_rates_of_masks_are_constant_while_that_of_the_weights_falls():
    given = spec(steps=20)
    module = LitLagrangian(Worth(torch.rand(8, 1)), given)
    made = module.configure_optimizers()
    rates = []
    for _ in range(20):
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        rates.append([group["lr"] for group in made["optimizer"].param_groups])
    assert all(rate[2:] == [0.1, 0.02] for rate in rates)
    assert rates[-1][0] == pytest.approx(1e-4) and rates[0][0] > 9e-4


def test_the_target_rises_and_phi_is_capped():
    given = spec(steps=40, ramp=0.5, phi_cap=0.3, share=0.5)
    targets = []

    class Spy(LitLagrangian):
        def target(self):
            targets.append(super().target())
            return targets[-1]

    module, last = trained(given, torch.rand(8, 1), Spy)
    assert targets == pytest.approx([0.5 * min(1, (step + 1) / 20) for step in range(40)])
    assert last["phi"] == pytest.approx(0.3) and module.phi.max() <= 0.3 + 1e-6


def test_the_steps_at_which_the_target_was_met_are_noted():
    module = type("Stepped", (LitLagrangian,), {"global_step": 0})(Worth(torch.rand(8, 1)), spec())
    seen = []
    for share in (0.2, 0.495, 0.52, 0.505, 0.5):
        module.global_step = len(seen)
        module._note(torch.tensor([share]))
        seen.append((int(module.reached), int(module.held)))
    assert seen == [(-1, -1), (1, 1), (1, -1), (1, 3), (1, 3)]


def test_the_curve_tells_both_readings_of_the_share():
    module = LitLagrangian(Worth(torch.rand(8, 1)), spec(share=0.5))
    with torch.no_grad():
        module.alpha.copy_(torch.tensor([-3.0, -1, -0.5, 0, 0.5, 1, 3, 5]).unsqueeze(1))
    module.loss(BATCH)
    point = module.measure()
    assert point["expected"] == pytest.approx(1 - mean(module.alpha).mean().item())
    assert point["zero"] == pytest.approx(1 - exceeds(module.alpha).mean().item())
    assert (point["rounded"], point["polarised"]) == (0.5, 0.375)
    assert point["gap"] == pytest.approx(abs(point["expected"] - 0.5))
    assert point["std"] == pytest.approx(module.alpha.std(correction=0).item())


def test_the_start_is_full_attention_and_noise_is_a_function_of_seed_and_step():
    given = spec("head")
    a, b = (LitLagrangian(Worth(torch.rand(8, 4)), given) for _ in range(2))
    assert torch.equal(a.noise(), b.noise()) and a.noise().shape == (8, 4)
    assert not torch.equal(a.noise(), LitLagrangian(a.masked, replace(given, seed=1)).noise())
    assert (a.alpha == 5).all() and a.chosen().all()
    assert not a.lam.any() and not a.phi.any()


def test_scalar_gates_pay_for_their_mean_stay_in_range_and_keep_the_share():
    best = torch.tensor([1, 0, 0, 1, 0, 1, 0, 1]).bool().unsqueeze(1)
    given = spec(method="l1", l1=0.5, mask_lr=0.02)
    module = LitL1(Worth(planted(best)), given)
    with torch.no_grad():
        module.gates.uniform_()
    text = row_mean_loss(module.masked(BATCH["input_ids"], module.gates), BATCH["labels"])
    torch.testing.assert_close(module.loss(BATCH), text + 0.5 * module.gates.sum() / 8)
    module, last = trained(given, planted(best), LitL1)
    assert module.gates.min() >= 0 and module.gates.max() <= 1
    assert module.chosen().sum() == 4 and torch.equal(module.chosen(), best)
    assert last["expected"] == pytest.approx(1 - module.gates.mean().item())


def test_mixers_under_masks_learn_at_their_own_rate_and_masks_at_theirs():
    class Mixed(Worth):
        def __init__(self, worth: torch.Tensor) -> None:
            super().__init__(worth)
            self.block = nn.ModuleDict({"attn": nn.Linear(1, 1), "mlp": nn.Linear(1, 1)})

    learn = Stage(TrainConfig(lr=1e-3, warmup=0), mixer_lr=5e-3)
    module = LitL1(Mixed(torch.rand(8, 1)), spec(method="l1", learn=learn, mask_lr=0.02))
    optimizer = module.configure_optimizers()["optimizer"]
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"masked.block.attn.weight": 5e-3, "masked.block.attn.bias": 5e-3, "gates": 0.02}
    assert {n: rates[id(p)] for n, p in module.named_parameters()} == {
        n: expected.get(n, 1e-3) for n, _ in module.named_parameters()
    }
