"""Three generations of linear attention, three kernels, and softmax attention beside them.

Every linear mixer of the book is projections and gates around one of these:

* `gated_scan`: a vector state, ``h_t = a_t * h_{t-1} + x_t`` (HGRN);
* `gated_outer`: a matrix state with a decay, ``S_t = diag(a_t) S_{t-1} + k_t v_t^T`` (RetNet with
  one decay a head, GLA and HGRN-2 with one a key channel);
* `gated_delta`: the delta rule with a decay,
  ``S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T`` (DeltaNet, Gated DeltaNet).

Each has one signature and three bodies that agree: ``recurrent`` is the definition as a loop,
``chunk`` is matrix products over chunks in plain PyTorch, ``fused`` is flash-linear-attention's
Triton, where a kernel has one. ``backend="auto"`` takes ``fused`` on CUDA (not in float64), and elsewhere
``chunk``, or ``recurrent`` for a few tokens (`SHORT`). Only ``recurrent`` can be differentiated twice. The
state goes in and comes out of every kernel, so prefill, decoding and the pieces of a long text are one
function. `hybrid.kernels.fused_parts` is what stands around the kernels in a model, on CUDA: norms, short
convolution, SwiGLU, loss.
`hybrid.kernels.triton_outer` is `gated_outer` once more, written to be read; no backend runs it.

Shapes are written as the field writes them: B sequences, T tokens, H heads, K key channels and
V value channels a head, D channels of a vector state. Decays are natural logarithms, at most 0.
States and decays are computed in float32 whatever the type of the inputs (float64 stays float64).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import Tensor

from hybrid.kernels import device
from hybrid.kernels.attention import softmax_attention
from hybrid.kernels.autograd import without_autocast

__all__ = ["gated_delta", "gated_outer", "gated_scan", "softmax_attention"]

BACKENDS = ("auto", "recurrent", "chunk", "fused")
SHORT = 8
"""Tokens up to which the loop is not slower than its chunks, on a CPU."""


def _run(kernel: str, backend: str, *inputs) -> tuple[Tensor, Tensor]:
    body = _body(kernel, backend, inputs[0])
    # Automatic mixed precision would turn the bodies' float32 products into bfloat16 ones.
    with without_autocast(inputs[0].device):
        return body(*inputs)


def _body(kernel: str, backend: str, x: Tensor) -> Callable:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; allowed: {', '.join(BACKENDS)}")
    modules = {name: import_module(f"hybrid.kernels.{name}") for name in BACKENDS[1:]}
    bodies = {name: getattr(module, kernel) for name, module in modules.items() if hasattr(module, kernel)}
    if backend == "auto":
        fused = "fused" in bodies and device.fuses(x)
        backend = "fused" if fused else "recurrent" if x.shape[1] <= SHORT else "chunk"
    if backend not in bodies:
        raise ValueError(f"{kernel} has no body {backend!r}; allowed: {', '.join(bodies)}")
    return bodies[backend]


def _check(**inputs: tuple[Tensor | None, str]) -> None:
    """Raise ``ValueError`` for the first input that is not of a floating-point type, that lacks one of the
    axes named by its letters, whose axes differ from those of the same letter before, or have no
    elements, and for log decays above 0.

    The largest log decay is looked for on a CPU alone. A GPU would have to be waited for, and tensors on meta
    have no numbers.
    """
    sizes = {}
    for name, (x, axes) in inputs.items():
        if x is None:
            continue
        if not x.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point type; got {x.dtype}")
        shape = tuple(x.shape)
        if len(shape) == len(axes):
            sizes = dict(zip(axes, shape, strict=True)) | sizes
        wanted = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
        if wanted != ", ".join(map(str, shape)):
            raise ValueError(f"{name} must have shape ({wanted}); got {shape}")
        if 0 in shape:
            raise ValueError(f"{name} must have shape ({', '.join(axes)}), none of it 0; got {shape}")
        if name == "log_decay" and x.is_cpu and (largest := x.detach().amax().item()) > 0:
            raise ValueError(f"log_decay must be at most 0; got {largest}")


def gated_scan(
    x: Tensor, log_decay: Tensor, state: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Scan a vector state: ``h_t = exp(log_decay_t) * h_{t-1} + x_t``, channel by channel.

    Args:
        x: [B, T, D], what is added at each step, its gate applied.
        log_decay: [B, T, D], at most 0.
        state: [B, D], h before the first step; None is zero.
        backend: "auto", "recurrent", "chunk" or "fused".

    Returns:
        h at every step [B, T, D], in the type of x, and after the last step [B, D].

    Raises:
        ValueError: for a wrong shape, an axis of length 0, a type that is not floating-point, an unknown
            backend, and, where they lie on a CPU, log decays above 0.

    Source: HGRN (Qin et al., 2311.04823), eq. 1-4; 2507.06457, Table 1.
    """
    _check(x=(x, "BTD"), log_decay=(log_decay, "BTD"), state=(state, "BD"))
    return _run("gated_scan", backend, x, log_decay, state)


def gated_outer(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Write outer products into a decaying matrix: ``S_t = diag(a_t) S_{t-1} + k_t v_t^T``,
    read ``o_t = scale * S_t^T q_t``, with ``a_t = exp(log_decay_t)``.

    Args:
        q, k: [B, T, H, K]; v: [B, T, H, V].
        log_decay: [B, T, H] (one decay a head, as RetNet) or [B, T, H, K] (one a key channel, as
            GLA and HGRN-2), at most 0.
        state: [B, H, K, V], S before the first step; None is zero.
        scale: of the queries; None is K ** -0.5.
        backend: "auto", "recurrent", "chunk" or "fused".

    Returns:
        o [B, T, H, V], in the type of v, and S after the last step [B, H, K, V].

    Raises:
        ValueError: for a wrong shape, an axis of length 0, a type that is not floating-point, an unknown
            backend, and, where they lie on a CPU, log decays above 0.

    Source: GLA (Yang et al., 2312.06635), eq. 3; RetNet (Sun et al., 2307.08621), eq. 5.
    """
    decay = "BTHK" if log_decay.dim() == 4 else "BTH"
    _check(q=(q, "BTHK"), k=(k, "BTHK"), v=(v, "BTHV"), log_decay=(log_decay, decay), state=(state, "BHKV"))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _run("gated_outer", backend, q, k, v, log_decay, state, scale)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Replace what a key holds: ``S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T``,
    read ``o_t = scale * S_t^T q_t``, with ``a_t = exp(log_decay_t)`` and ``b_t = beta_t``.

    Args:
        q, k: [B, T, H, K]; keys of length at most 1 keep the state bounded. v: [B, T, H, V].
        beta: [B, T, H], how much of the old value is replaced.
        log_decay: [B, T, H], at most 0; None is no decay (DeltaNet).
        state: [B, H, K, V], S before the first step; None is zero.
        scale: of the queries; None is K ** -0.5.
        backend: "auto", "recurrent", "chunk" or "fused".

    Returns:
        o [B, T, H, V], in the type of v, and S after the last step [B, H, K, V].

    Raises:
        ValueError: for a wrong shape, an axis of length 0, a type that is not floating-point, an unknown
            backend, and, where they lie on a CPU, log decays above 0.

    Source: DeltaNet (Yang et al., 2406.06484), eq. 4-5; Gated DeltaNet (Yang et al., 2412.06464), eq. 10.
    """
    of_tokens = {"q": (q, "BTHK"), "k": (k, "BTHK"), "v": (v, "BTHV"), "beta": (beta, "BTH")}
    _check(**of_tokens, log_decay=(log_decay, "BTH"), state=(state, "BHKV"))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _run("gated_delta", backend, q, k, v, beta, log_decay, state, scale)
