"""What stands around the three kernels, on a GPU: flash-linear-attention's Triton norms, convolution,
activation and loss.

Each is one pass over memory where PyTorch takes several, computes in float32 and returns the type of its
first argument. Its definition is the PyTorch code of the function that calls it.

Source: flash-linear-attention (Yang and Zhang, 2024), https://github.com/fla-org/flash-linear-attention.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hybrid.kernels.fused import imported


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`hybrid.mixers.norms.RMSNorm`: x [..., D], weight [D]."""
    return imported("fla.modules.norm.layernorm", "rms_norm")(x, weight, None, eps=eps)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`hybrid.mixers.norms.GatedRMSNorm`: x and gate [..., D], weight [D]."""
    return imported("fla.modules.norm.fused_norm_gate", "rms_norm_gated")(x, gate, weight, None, eps=eps)


def l2_norm(x: Tensor, eps: float) -> Tensor:
    """`hybrid.mixers.norms.l2_norm`: x [..., D]."""
    return imported("fla.modules.norm.l2norm", "l2norm")(x, eps)


def short_conv(x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, silu: bool) -> Tensor:
    """`hybrid.mixers.conv.ShortConv`: x [B, T, D], weight [D, W], bias [D] or None, tail [B, W - 1, D] or
    None."""
    convolve = imported("fla.modules.causal_conv1d", "causal_conv1d")
    # fla's state is [B, D, W], with one token more than is read.
    state = None if tail is None else F.pad(tail.mT, (1, 0))
    return convolve(x, weight, bias, initial_state=state, activation="silu" if silu else None)[0]


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, both [..., D]."""
    return imported("fla.modules.activations", "swiglu")(gate, up)


def cross_entropy(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """Nats of each row of logits [N, vocab] at its label [N], float32; 0 where the label is `ignored`."""
    loss = imported("fla.modules.fused_cross_entropy", "cross_entropy_loss")
    return loss(logits, labels, ignore_index=ignored)[0]
