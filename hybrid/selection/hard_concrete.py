"""The hard-concrete distribution: a random mask in [0, 1], often exactly 0 or 1, that has a gradient.

Noise u, uniform in (0, 1), makes ``s = sigmoid((log u - log(1 - u) + alpha) / BETA)``, which is stretched to
(GAMMA, ZETA) and cut off: ``z = clip(s * (ZETA - GAMMA) + GAMMA, 0, 1)``. The one parameter, alpha, says how
much the mask leans to 1. All functions work element by element and keep the shape of alpha.

Source: Louizos et al., 1712.01312, section 2.2 and appendix C.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

BETA = 2 / 3
"""Temperature: the smaller, the closer s is to 0 or 1. The authors' value; ConSA's is not known to us."""
GAMMA, ZETA = -0.1, 1.1
"""Ends of the stretched interval: the authors' values; ConSA's are not known to us."""
LEVELS, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(32))
"""The Gauss-Legendre rule of `mean`, on (-1, 1); its error lies below the rounding of float32."""


def sample(alpha: Tensor, noise: Tensor) -> Tensor:
    """The mask z that uniform noise of the shape of alpha makes, differentiable in alpha."""
    return _stretched(torch.sigmoid((torch.logit(noise) + alpha) / BETA))


def settled(alpha: Tensor) -> Tensor:
    """The mask without noise, ``clip(sigmoid(alpha) * (ZETA - GAMMA) + GAMMA, 0, 1)``: above one half if and
    only if alpha is positive. Appendix C's estimator for use after training."""
    return _stretched(torch.sigmoid(alpha))


def exceeds(alpha: Tensor, level: float | Tensor = 0.0) -> Tensor:
    """P(z > level), ``sigmoid(alpha - BETA * logit((level - GAMMA) / (ZETA - GAMMA)))``, of levels in [0, 1).

    At level 0 it is the chance that a mask is not closed, equation 12 of the source.
    """
    s = (torch.as_tensor(level, dtype=torch.float64) - GAMMA) / (ZETA - GAMMA)
    return torch.sigmoid(alpha - (BETA * torch.logit(s)).to(alpha))


def mean(alpha: Tensor) -> Tensor:
    """E[z], the integral of P(z > t) over t from 0 to 1, by a Gauss-Legendre rule; one half at alpha = 0."""
    return exceeds(alpha.unsqueeze(-1), (LEVELS + 1) / 2) @ (WEIGHTS / 2).to(alpha)


POLARISED = -BETA * math.log(-GAMMA / ZETA)
"""An alpha above this number, about 1.6, makes a mask 1 more often than not; one below its negative, 0."""


def _stretched(s: Tensor) -> Tensor:
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
