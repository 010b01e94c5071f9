"""The hybrid language model: a stack of blocks, each with the mixer its letter names."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.kernels import device, fused_parts
from hybrid.mixers.norms import full_precision
from hybrid.models.block import Stack
from hybrid.models.start import draw

IGNORED = -100
COLDEST = 1e-6
"""Temperatures down to this are no longer divided by."""


class Output(NamedTuple):
    """What a forward pass returns."""

    logits: Tensor
    """[B, T, vocab]; [B, 1, vocab] when only the last position was asked for."""
    loss: Tensor | None
    """A number in nats a token, or None without labels."""
    state: list
    """The state of every block after the last token."""
    auxiliary: Tensor | None = None
    """The sum of the losses that blocks have of their own, such as a router's balance; None without any."""

    @property
    def objective(self) -> Tensor:
        """What training makes small: `loss`, with `auxiliary` where there is one."""
        return self.loss if self.auxiliary is None else self.loss + self.auxiliary


class HybridLM(nn.Module):
    """A causal language model whose blocks are laid out by `config.layout`.

    Parameter names are flash-linear-attention's, so that its checkpoints and this model's fit each
    other (see `hybrid.checkpoints.checkpoint`).

    Source: 2507.06457, section 3 and Figure 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Stack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embeddings.weight
        # On the meta device there is nothing to draw, and trying takes most of the time.
        if not self.lm_head.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew, as the config's `StartConfig` says."""
        draw(self, self.config.start, self.config.depth)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        state: list | None = None,
        *,
        last_only: bool = False,
    ) -> Output:
        """Score the next token at every position.

        Args:
            input_ids: [B, T].
            labels: [B, T]; labels[:, t] is the target of position t, -100 where there is none.
            state: what an earlier call returned for the text before; None at a text's beginning.
            last_only: logits of the last position alone, for long prompts; excludes `labels`.

        There is no padding: every id is read, and a mask would be needed in every mixer. Texts of different
        lengths are filled up behind their end, where the causal model sees them too late to matter, and
        the positions there are left out, as labels by -100 (`hybrid.released.harness` does both).

        Raises ``ValueError`` for ids that are not [B, T] with B and T above 0, labels of another shape,
        labels together with `last_only`, or a state of another depth.
        """
        check_ids(input_ids)
        if labels is not None and labels.shape != input_ids.shape:
            raise ValueError(
                f"labels must have the shape of input_ids {tuple(input_ids.shape)}; got {tuple(labels.shape)}"
            )
        if labels is not None and last_only:
            raise ValueError("labels need every position's logits; got last_only=True as well")
        if state is not None and len(state) != self.config.depth:
            raise ValueError(f"state must hold {self.config.depth} blocks; got {len(state)}")
        x, state, auxiliary = self.model(input_ids, state)
        logits = self.lm_head(x[:, -1:] if last_only else x)
        return Output(logits, None if labels is None else row_mean_loss(logits, labels), state, auxiliary)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        chunk: int = 512,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue each row: read the prompt in pieces, then one token at a time.

        Args:
            input_ids: [B, T] prompts of one length: there is no padding. Prompts of different lengths are
                continued one by one, or in groups of equal length.
            max_new_tokens: tokens to add.
            temperature: 0 takes the most probable token; otherwise logits are divided by it and sampled. From
                `COLDEST` down it must be 0: the quotients would leave the range of float32.
            chunk: tokens of a piece of the prompt.
            generator: source of the samples.

        Returns:
            [B, T + max_new_tokens], prompt included.

        Raises ``ValueError`` for prompts that are not [B, T] with B and T above 0, no tokens to add, a
        temperature that is neither 0 nor above `COLDEST`, or chunk < 1.
        """
        check_ids(input_ids)
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {max_new_tokens}")
        if temperature != 0 and not COLDEST < temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a number above {COLDEST}; got {temperature}")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1; got {chunk}")
        state, tokens, pieces = None, [input_ids], input_ids.split(chunk, dim=1)
        for _ in range(max_new_tokens):
            for piece in pieces:
                logits, _, state, _ = self(piece, state=state, last_only=True)
            logits = full_precision(logits[:, -1])
            if temperature == 0:
                token = logits.argmax(-1, keepdim=True)
            else:
                shares = (logits / temperature).softmax(-1)
                token = torch.multinomial(shares, 1, generator=generator)
            tokens.append(token)
            pieces = (token,)
        return torch.cat(tokens, dim=1)


def check_ids(input_ids: Tensor) -> None:
    """Refuse ids that are not [B, T] with at least one sequence and one token, or no whole numbers."""
    shape = tuple(input_ids.shape)
    if len(shape) != 2 or not all(shape):
        raise ValueError(f"input_ids must be [B, T] with B > 0 and T > 0; got shape {shape}")
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids must be int64 or int32; got {input_ids.dtype}")


def row_mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows of a row's mean cross-entropy, in nats a token, in float32 or better.

    Every row counts the same however many of its positions are labelled; rows without a label are
    left out, and a batch without any label has loss 0.

    Args:
        logits: [B, T, vocab].
        labels: [B, T], -100 where there is no target.
    """
    scores, targets = logits.flatten(0, 1), labels.flatten()
    if device.fuses(logits):
        entropy = fused_parts.cross_entropy(scores, targets, IGNORED)
    else:
        entropy = F.cross_entropy(full_precision(scores), targets, ignore_index=IGNORED, reduction="none")
    labelled = (labels != IGNORED).sum(1)
    rows = entropy.view_as(labels).sum(1) / labelled.clamp_min(1)
    return rows.sum() / (labelled > 0).sum().clamp_min(1)
