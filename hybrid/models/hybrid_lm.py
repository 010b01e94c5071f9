"""The hybrid language model: a stack of blocks, each with the mixer its letter names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.config import ModelConfig
from hybrid.config.geometry import mlp_size
from hybrid.kernels import device, fused_parts
from hybrid.mixers import build_mixer
from hybrid.mixers.norms import RMSNorm, full_precision

IGNORED = -100


class Output(NamedTuple):
    """What a forward pass returns."""

    logits: Tensor
    """[B, T, vocab]; [B, 1, vocab] when only the last position was asked for."""
    loss: Tensor | None
    """A number in nats a token, or None without labels."""
    state: list
    """The state of every block after the last token."""


class MLP(nn.Module):
    """SwiGLU (Shazeer, 2002.05202): ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, hidden] -> [B, T, hidden]."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(fused_parts.swiglu(gate, up) if device.fuses(x) else F.silu(gate) * up)


class Block(nn.Module):
    """``x + attn(norm(x))``, then ``x + mlp(norm(x))``; `attn` is any mixer."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = build_mixer(config, index)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config.hidden_size, mlp_size(config))

    def forward(self, x: Tensor, state=None, **gates: Tensor) -> tuple[Tensor, tuple]:
        """x [B, T, hidden] -> [B, T, hidden] and the mixer's state after it."""
        y, state = self.attn(self.attn_norm(x), state, **gates)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state


class Stack(nn.Module):
    """Embeddings, blocks and the final norm.

    Mixers with a lower bound on their forget gate share `lower_bounds` [depth, hidden]: block l's
    bound is the sum of rows 1..l of its softmax over blocks, so the first block's is zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.bounded = [getattr(block.attn, "uses_lower_bound", False) for block in self.layers]
        if any(self.bounded):
            self.lower_bounds = nn.Parameter(torch.zeros(config.depth, config.hidden_size))

    def gates(self) -> list[dict[str, Tensor]]:
        """What the mixer of each block takes beside its input: ``lower_bound`` [hidden] or nothing."""
        if not any(self.bounded):
            return [{} for _ in self.layers]
        share = full_precision(self.lower_bounds).softmax(0)
        bounds = share.cumsum(0) - share[0]
        return [{"lower_bound": bounds[i]} if bounded else {} for i, bounded in enumerate(self.bounded)]

    def forward(self, input_ids: Tensor, state: list | None = None) -> tuple[Tensor, list]:
        """input_ids [B, T] -> hidden states after the final norm [B, T, hidden], state of each block."""
        x = self.embeddings(input_ids)
        state = [None] * len(self.layers) if state is None else list(state)
        for index, (block, gates) in enumerate(zip(self.layers, self.gates(), strict=True)):
            x, state[index] = block(x, state[index], **gates)
        return self.norm(x), state


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
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw every parameter anew: matrices, convolutions and embeddings normal with standard
        deviation `init_std`, norms one, biases and lower bounds zero, decays as their mixer says."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=self.config.init_std)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        if any(self.model.bounded):
            self.model.lower_bounds.zero_()
        for block in self.model.layers:
            if hasattr(block.attn, "reset_parameters"):
                block.attn.reset_parameters()

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

        Raises ``ValueError`` for ids that are not [B, T] with T > 0, labels of another shape, labels
        together with `last_only`, or a state of another depth.
        """
        if input_ids.dim() != 2 or not input_ids.shape[1]:
            raise ValueError(f"input_ids must be [B, T] with T > 0; got shape {tuple(input_ids.shape)}")
        if labels is not None and labels.shape != input_ids.shape:
            raise ValueError(
                f"labels must have the shape of input_ids {tuple(input_ids.shape)}; got {tuple(labels.shape)}"
            )
        if labels is not None and last_only:
            raise ValueError("labels need every position's logits; got last_only=True as well")
        if state is not None and len(state) != self.config.depth:
            raise ValueError(f"state must hold {self.config.depth} blocks; got {len(state)}")
        x, state = self.model(input_ids, state)
        logits = self.lm_head(x[:, -1:] if last_only else x)
        return Output(logits, None if labels is None else row_mean_loss(logits, labels), state)

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
            input_ids: [B, T] prompts.
            max_new_tokens: tokens to add.
            temperature: 0 takes the most probable token; otherwise logits are divided by it and sampled.
            chunk: tokens of a piece of the prompt.
            generator: source of the samples.

        Returns:
            [B, T + max_new_tokens], prompt included.

        Raises ``ValueError`` for an empty prompt, no tokens to add, a negative temperature or chunk < 1.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {max_new_tokens}")
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0; got {temperature}")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1; got {chunk}")
        state, tokens, pieces = None, [input_ids], input_ids.split(chunk, dim=1)
        for _ in range(max_new_tokens):
            for piece in pieces:
                logits, _, state = self(piece, state=state, last_only=True)
            logits = full_precision(logits[:, -1])
            if temperature == 0:
                token = logits.argmax(-1, keepdim=True)
            else:
                shares = (logits / temperature).softmax(-1)
                token = torch.multinomial(shares, 1, generator=generator)
            tokens.append(token)
            pieces = (token,)
        return torch.cat(tokens, dim=1)

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> HybridLM:
        """Read a model from a folder or the hub; see `hybrid.checkpoints.checkpoint.load`."""
        from hybrid.checkpoints.checkpoint import load

        return load(path_or_hub_id, device=device, dtype=dtype)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model into a folder; see `hybrid.checkpoints.checkpoint.save`."""
        from hybrid.checkpoints.checkpoint import save

        save(self, directory)


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
