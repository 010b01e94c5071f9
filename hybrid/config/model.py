"""What a model is: its blocks, widths and mixers."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.config.checks import above_zero, floats, from_zero, positive
from hybrid.config.layout import Layout

MIXERS = ("hgrn", "retnet", "gla", "hgrn2", "deltanet", "gated_deltanet")


@dataclass(frozen=True)
class ModelConfig:
    """A `HybridLM`: its blocks, widths and mixers.

    Fields that are ``None`` take the value of the reference implementation of the mixer
    (flash-linear-attention, whose parameter names and formulas the mixers follow).
    Raises ``ValueError`` for an unknown mixer or a width the heads do not divide.
    """

    layout: Layout
    """Which block holds which mixer; a string or list of letters is parsed."""
    mixer: str = "gated_deltanet"
    """The linear mixer of the `L` blocks, one of `MIXERS`."""
    vocab_size: int = 32_000
    """Number of token ids."""
    hidden_size: int = 1024
    """Width of the residual stream, in channels."""
    mlp_size: int | None = None
    """Inner width of the SwiGLU MLP, in channels."""
    num_heads: int | None = None
    """Heads of the linear mixer, H."""
    head_k_dim: int | None = None
    """Key channels of one head of the linear mixer, K."""
    head_v_dim: int | None = None
    """Value channels of one head of the linear mixer, V."""
    attn_heads: int = 16
    """Query heads of the `F` and `W` blocks."""
    attn_kv_heads: int | None = None
    """Key and value heads of the `F` and `W` blocks; None: as many as query heads."""
    attn_head_dim: int | None = None
    """Channels of one head of the `F` and `W` blocks; None: hidden_size / attn_heads."""
    qkv_bias: bool = False
    """Add a bias to the queries, keys and values of `F` and `W` blocks, as Qwen2 does."""
    window: int | None = None
    """Tokens a `W` block sees, itself included; needed if and only if the layout has a `W`."""
    full_heads: tuple[tuple[int, ...], ...] | None = None
    """One tuple a block: in a `W` block the key-value heads, counted from 0 in ascending order, that see the
    whole past, and with them the query heads that read them; the others see the window. Empty for every
    other block. None: no `W` block has such heads. They are ConSA's KV-head-wise masks (2606.18056)."""
    rope_theta: float | None = 10_000.0
    """Base of the rotary position embedding of `F` and `W` blocks; None: no position embedding."""
    rope_stretch: tuple[float, float, float, float] | None = None
    """Llama 3.1's stretch for long texts, ``(factor, low, high, length)``: channel pairs that turn round
    fewer than `low` times in `length` tokens turn `factor` times slower, those that turn more than `high`
    times as they did, and in between the change is linear in the number of turns. None: no stretch."""
    qk_norm: bool = False
    """RMS-normalise queries and keys of `F` and `W` blocks, per head."""
    qk_norm_eps: float = 1e-5
    """Added under the root of these norms; the reference fixes it at 1e-5, Qwen3 takes the `norm_eps`."""
    conv: int | str = "reference"
    """Width of the causal short convolution: "reference" (each mixer as published: 4 for the two
    delta-rule mixers, none elsewhere), "none", or one width in tokens for every mixer, full
    attention included (the shift-matched arm)."""
    tie_embeddings: bool = False
    """Share the embedding matrix with the output layer."""
    norm_eps: float = 1e-6
    """Added under the root of every RMSNorm, but for HGRN-2's output norm, which the reference fixes at 1e-5,
    and for the norms with an epsilon of their own, `qk_norm_eps`."""
    init_std: float = 0.02
    """Standard deviation of the normal initialisation of every matrix."""

    def __post_init__(self) -> None:
        floats(self)
        from_zero(self, "init_std")
        above_zero(self, "norm_eps", "qk_norm_eps", "rope_theta")
        object.__setattr__(self, "layout", Layout.parse(self.layout))
        if self.mixer not in MIXERS:
            raise ValueError(f"unknown mixer {self.mixer!r}; allowed: {', '.join(MIXERS)}")
        optional = ("mlp_size", "num_heads", "head_k_dim", "head_v_dim", "window")
        optional += ("attn_kv_heads", "attn_head_dim")
        given = [name for name in optional if getattr(self, name) is not None]
        positive(self, "vocab_size", "hidden_size", "attn_heads", *given)
        if self.attn_head_dim is None and self.hidden_size % self.attn_heads:
            raise ValueError(f"attn_heads must divide hidden_size {self.hidden_size}; got {self.attn_heads}")
        if self.head_dim % 2 and self.rope_theta is not None:
            raise ValueError(
                f"rotary positions need an even number of channels a head; got {self.head_dim} "
                "(attn_head_dim, or else hidden_size / attn_heads)"
            )
        if self.rope_stretch is not None:
            object.__setattr__(self, "rope_stretch", _stretch(self))
        if self.attn_kv_heads is not None and self.attn_heads % self.attn_kv_heads:
            raise ValueError(
                f"attn_kv_heads must divide attn_heads {self.attn_heads}; got {self.attn_kv_heads}"
            )
        if ("W" in self.layout.letters) != (self.window is not None):
            raise ValueError(
                f"window is needed if and only if the layout has a W block; got window="
                f"{self.window!r} with layout {self.layout}"
            )
        if self.full_heads is not None:
            object.__setattr__(self, "full_heads", _full_heads(self))
        if self.conv not in ("reference", "none") and (
            isinstance(self.conv, (str, bool)) or not isinstance(self.conv, int) or self.conv < 2
        ):
            raise ValueError(f"conv must be 'reference', 'none' or a width of at least 2; got {self.conv!r}")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.layout)

    @property
    def kv_heads(self) -> int:
        """Key and value heads of the attention blocks."""
        return self.attn_kv_heads or self.attn_heads

    @property
    def head_dim(self) -> int:
        """Channels of one head of the attention blocks."""
        return self.attn_head_dim or self.hidden_size // self.attn_heads

    def spans(self, index: int) -> list[tuple[tuple[int, ...], int | None]]:
        """Key-value heads of block `index` that see equally far, with how far: the whole past (None) or a
        window in tokens. Every head of an attention block is in one of them; a linear block has none."""
        letter, every = self.layout.letters[index], tuple(range(self.kv_heads))
        if letter == "L":
            return []
        full = every if letter == "F" else self.full_heads[index] if self.full_heads else ()
        windowed = tuple(head for head in every if head not in full)
        return [span for span in ((full, None), (windowed, self.window)) if span[0]]


def _full_heads(config: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """`full_heads` as tuples; refused unless it is the one way to write its model, which has one `run_id`."""
    given, kv_heads = config.full_heads, config.kv_heads
    try:
        blocks = tuple(tuple(heads) for heads in given)
    except TypeError:
        raise ValueError(f"full_heads must be None or one tuple of heads a block; got {given!r}") from None
    if len(blocks) != config.depth:
        raise ValueError(f"full_heads must hold {config.depth} tuples, one a block; got {len(blocks)}")
    for index, (letter, heads) in enumerate(zip(config.layout, blocks, strict=True)):
        if letter != "W" and heads:
            raise ValueError(
                f"full_heads of block {index}, {letter}, must be (): only the heads of a W block can differ; "
                f"got {heads!r}"
            )
        whole = all(isinstance(head, int) and not isinstance(head, bool) for head in heads)
        if not whole or list(heads) != sorted(set(heads) & set(range(kv_heads))):
            raise ValueError(
                f"full_heads of block {index} must be whole numbers from 0 to {kv_heads - 1} in ascending "
                f"order, each once; got {heads!r}"
            )
        if len(heads) == kv_heads:
            raise ValueError(
                f"full_heads of block {index} names all {kv_heads} key-value heads; write F for this block "
                f"in the layout; got {heads!r} with layout {config.layout}"
            )
    if not any(blocks):
        raise ValueError(f"full_heads names no head; leave it None; got {blocks!r}")
    return blocks


def _stretch(config: ModelConfig) -> tuple[float, ...]:
    """`rope_stretch` as floats; refused unless it is four numbers that make a stretch of rotary positions."""
    given = config.rope_stretch
    if config.rope_theta is None:
        raise ValueError(f"rope_stretch needs rotary positions, rope_theta; got {given!r} without them")
    try:
        factor, low, high, length = values = tuple(map(float, given))
    except (TypeError, ValueError):
        raise ValueError(f"rope_stretch must be (factor, low, high, length); got {given!r}") from None
    if not (factor >= 1 and 0 < low < high and length > 0):
        raise ValueError(
            f"rope_stretch must be (factor, low, high, length) with factor >= 1, 0 < low < high and "
            f"length > 0; got {given!r}"
        )
    return values
