"""Stage 1 of ConSA: weights and masks learn together, the share of the cheap branch held by multipliers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybrid.conversion.distillation import LitStage
from hybrid.data.module import stream
from hybrid.models.hybrid_lm import row_mean_loss
from hybrid.selection import hard_concrete
from hybrid.selection.consa_spec import ConsaSpec
from hybrid.selection.masks import highest
from hybrid.training.loop import learning_rate_factor

START = 5.0
"""Alpha of every unit before training: all but surely full attention. ConSA's value, at second hand."""
NEAR = 0.01
"""A share this close to its target has reached it."""


class LitMasked(LitStage):
    """A masked model under training on the next token, by AdamW, together with what sets its masks.

    What sets the masks learns at a constant rate of its own, in float32, without weight decay, and stands
    outside the gradient norm by which the weights are clipped.
    """

    def __init__(self, masked: nn.Module, spec: ConsaSpec) -> None:
        super().__init__(spec.learn)
        self.masked, self.spec = masked, spec
        # In the checkpoint, as a stage that was over before a run was stopped is measured again.
        self.register_buffer("last_text_loss", torch.tensor(torch.nan))

    def scores(self) -> Tensor:
        """A number a unit [blocks, units], the higher the more it should stay full."""
        raise NotImplementedError

    def mask_groups(self) -> list[dict]:
        """The optimiser's groups of what sets the masks, each with its `lr`."""
        raise NotImplementedError

    def project(self) -> None:
        """Put what sets the masks back into its range, after a step."""
        raise NotImplementedError

    def measure(self) -> dict[str, float]:
        """A point of the learning curve."""
        raise NotImplementedError

    @torch.no_grad()
    def chosen(self) -> Tensor:
        """The masks of True and False that stage 2 keeps, [blocks, units]."""
        raise NotImplementedError

    def highest(self) -> Tensor:
        """The masks that keep the highest scores at exactly the target share."""
        return highest(self.scores().detach(), self.spec.share, self.spec.scope)

    def text_loss(self, batch: dict[str, Tensor], masks: Tensor) -> Tensor:
        """The loss of the next token, in nats, kept for the curve."""
        loss = row_mean_loss(self.masked(batch["input_ids"], masks), batch["labels"])
        self.last_text_loss = loss.detach()
        return loss

    def configure_optimizers(self) -> dict:
        train, weights = self.config, {id(p) for p in self.masked.parameters()}
        groups = [
            group | {"params": [p for p in group["params"] if id(p) in weights]}
            for group in self.parameter_groups()
        ]
        masks = [group | {"weight_decay": 0.0} for group in self.mask_groups()]
        optimizer = torch.optim.AdamW(
            [*groups, *masks], lr=train.lr, betas=train.betas, eps=train.eps, fused=True
        )
        factors = [lambda step: learning_rate_factor(step, train)] * len(groups)
        factors += [lambda step: 1.0] * len(masks)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val: float, gradient_clip_algorithm: str | None = None
    ) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.masked.parameters(), gradient_clip_val)
        if self.config.skip_nonfinite and not torch.isfinite(norm):
            optimizer.zero_grad()

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.project()


class LitLagrangian(LitMasked):
    """Hard-concrete masks under an augmented Lagrangian: over a share r of the cheap branch and its target,

        min over weights and alpha, max over lam and phi of
            next-token loss + lam * (E[r] - target) + phi * (E[r] - target)^2,

    summed over the constraints: one over all units, or one a block. The multipliers start at 0. Masks are
    drawn anew every step, the same for the whole batch.

    E[r] is a function of alpha, with no draw in it: ``1 - E[z]``, averaged over units. The other reading,
    P(z = 0), is on the curve beside it. It is 0.17 at alpha = 0, where E[z] is one half: under it the
    constraint may hold while rounding at alpha = 0 misses the share by far.

    Source: ConSA, 2606.18056, known at second hand; its form is that of LLM-Shearing, 2310.06694, after
    structured pruning with hard-concrete gates, 1910.04732.
    """

    # Noise and target are functions of the step, and come from outside of the GPU.
    steady = False

    def __init__(self, masked: nn.Module, spec: ConsaSpec) -> None:
        super().__init__(masked, spec)
        self.alpha = nn.Parameter(torch.full(spec.shape, START))
        constraints = spec.shape[0] if spec.scope == "layer" else 1
        self.lam = nn.Parameter(torch.zeros(constraints))
        self.phi = nn.Parameter(torch.zeros(constraints))
        self.register_buffer("reached", torch.tensor(-1))
        self.register_buffer("held", torch.tensor(-1))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        masks = hard_concrete.sample(self.alpha, self.noise())
        text, share = self.text_loss(batch, masks), self.expected()
        self._note(share.detach())
        gap = share - self.target()
        return text + (self.lam * gap + self.phi * gap.square()).sum()

    def noise(self) -> Tensor:
        """Uniform noise [blocks, units]: a function of the seed and the step alone, so that a resumed run is
        the same run."""
        rng = stream(self.spec.seed, "train", self.global_step, *b"masks")
        return torch.from_numpy(rng.random(self.spec.shape)).to(self.alpha)

    def expected(self) -> Tensor:
        """The expected share of the cheap branch under each constraint, [constraints]."""
        return 1 - hard_concrete.mean(self.alpha).view(len(self.lam), -1).mean(1)

    def target(self) -> float:
        """The share asked for at this step: a line from 0, then constant."""
        steps = self.spec.ramp * self.config.steps
        return self.spec.share * (min(1.0, (self.global_step + 1) / steps) if steps else 1.0)

    def gap(self, share: Tensor) -> Tensor:
        """The largest distance of a constraint from the final target."""
        return (share - self.spec.share).abs().max()

    def _note(self, share: Tensor) -> None:
        near, step = self.gap(share) < NEAR, self.global_step
        self.reached = torch.where(near & (self.reached < 0), step, self.reached)
        self.held = torch.where(near, torch.where(self.held < 0, step, self.held), -1)

    def scores(self) -> Tensor:
        return self.alpha

    def chosen(self) -> Tensor:
        return self.alpha.detach() > 0

    def mask_groups(self) -> list[dict]:
        return [
            {"params": [self.alpha], "lr": self.spec.mask_lr},
            {"params": [self.lam, self.phi], "lr": self.spec.multiplier_lr, "maximize": True},
        ]

    def project(self) -> None:
        self.phi.clamp_(0, self.spec.phi_cap)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`text_loss`; shares of the cheap branch: `expected`, `zero` (P(z = 0)), `rounded` (alpha <= 0);
        `gap`, the largest distance of an expected share from its target; `lam`, `phi`, means over
        constraints; of the alphas `std` and `polarised`, the share beyond `POLARISED` on either side."""
        share = self.expected()
        values = {
            "text_loss": self.last_text_loss,
            "expected": share.mean(),
            "zero": 1 - hard_concrete.exceeds(self.alpha).mean(),
            "rounded": 1 - self.chosen().float().mean(),
            "gap": self.gap(share),
            "lam": self.lam.mean(),
            "phi": self.phi.mean(),
            "std": self.alpha.std(correction=0),
            "polarised": (self.alpha.abs() > hard_concrete.POLARISED).float().mean(),
        }
        return {name: value.item() for name, value in values.items()}


class LitL1(LitMasked):
    """Scalar gates in [0, 1] in place of masks: next-token loss + weight * mean of the gates; the highest
    stay full. The weights learn too, so that the arms differ in nothing but their masks.

    Source: the ablation of ConSA, 2606.18056, after LoZA (2512.23966) and DuoAttention (2410.10819), known
    at second hand; start and default weight are DuoAttention's.
    """

    def __init__(self, masked: nn.Module, spec: ConsaSpec) -> None:
        super().__init__(masked, spec)
        self.gates = nn.Parameter(torch.ones(spec.shape))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.text_loss(batch, self.gates) + self.spec.l1 * self.gates.mean()

    def scores(self) -> Tensor:
        return self.gates

    def chosen(self) -> Tensor:
        return self.highest()

    def mask_groups(self) -> list[dict]:
        return [{"params": [self.gates], "lr": self.spec.mask_lr}]

    def project(self) -> None:
        self.gates.clamp_(0, 1)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`text_loss`; `expected`, one minus the mean of the gates; `std` of the gates."""
        values = {
            "text_loss": self.last_text_loss,
            "expected": 1 - self.gates.mean(),
            "std": self.gates.std(correction=0),
        }
        return {name: value.item() for name, value in values.items()}
