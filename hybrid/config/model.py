"""What a model is: its layout, and one frozen part for each kind of branch that its blocks hold."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hybrid.config.checks import above_zero, floats, positive
from hybrid.config.layout import Layout
from hybrid.config.registry import EXPERTS, MIXERS, MLPS
from hybrid.config.start import StartConfig


@dataclass(frozen=True)
class LinearConfig:
    """The linear mixer of the `L`, `l`, `P` and `p` blocks. Raises ``ValueError`` for an unknown mixer.

    Fields that are ``None`` take the value of the reference implementation of the mixer
    (flash-linear-attention, whose parameter names and formulas the mixers follow).
    """

    mixer: str
    """One of `MIXERS`."""
    num_heads: int | None = None
    """Heads, H."""
    head_k_dim: int | None = None
    """Key channels of one head, K."""
    head_v_dim: int | None = None
    """Value channels of one head, V."""
    num_groups: int | None = None
    """Groups of heads, of which each shares its queries and keys, where a mixer has such groups."""

    def __post_init__(self) -> None:
        MIXERS.check(self.mixer)
        names = ("num_heads", "head_k_dim", "head_v_dim", "num_groups")
        positive(self, *(name for name in names if getattr(self, name) is not None))


@dataclass(frozen=True)
class RotaryConfig:
    """Rotary positions (Su et al., 2104.09864)."""

    theta: float = 10_000.0
    """Base: channel pair i of a head of K channels turns by ``theta ** (-2i / K)`` a token."""
    stretch: tuple[float, float, float, float] | None = None
    """Llama 3.1's stretch for long texts, ``(factor, low, high, length)``: channel pairs that turn round
    fewer than `low` times in `length` tokens turn `factor` times slower, those that turn more than `high`
    times as they did, and in between the change is linear in the number of turns. None: no stretch."""

    def __post_init__(self) -> None:
        floats(self)
        above_zero(self, "theta")
        if self.stretch is None:
            return
        try:
            factor, low, high, length = values = tuple(map(float, self.stretch))
        except (TypeError, ValueError):
            raise ValueError(f"stretch must be (factor, low, high, length); got {self.stretch!r}") from None
        if not (factor >= 1 and 0 < low < high and length > 0):
            raise ValueError(
                f"stretch must be (factor, low, high, length) with factor >= 1, 0 < low < high and "
                f"length > 0; got {self.stretch!r}"
            )
        object.__setattr__(self, "stretch", values)


@dataclass(frozen=True)
class AttentionConfig:
    """Softmax attention: heads of all attention blocks, and positions of those that see everything."""

    num_heads: int = 16
    """Query heads."""
    num_kv_heads: int | None = None
    """Key and value heads; None: as many as query heads."""
    head_dim: int | None = None
    """Channels of one head; None: hidden_size / num_heads."""
    qkv_bias: bool = False
    """Add a bias to queries, keys and values, as Qwen2 does."""
    qk_norm: bool = False
    """RMS-normalise queries and keys, per head."""
    qk_norm_eps: float = 1e-5
    """Added under the root of these norms; the reference fixes it at 1e-5, Qwen3 takes the `norm_eps`."""
    rotary: RotaryConfig | None = RotaryConfig()
    """Positions of the blocks that see the whole past; None: no positions."""

    def __post_init__(self) -> None:
        floats(self)
        above_zero(self, "qk_norm_eps")
        positive(self, "num_heads")
        positive(self, *(n for n in ("num_kv_heads", "head_dim") if getattr(self, n) is not None))
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads {self.num_heads}; got {self.num_kv_heads}")


@dataclass(frozen=True)
class WindowConfig:
    """What the `W` and `w` blocks see, by the heads of `AttentionConfig`."""

    size: int
    """Tokens a query sees, itself included."""
    full_heads: tuple[tuple[int, ...], ...] | None = None
    """One tuple a block: in a windowed block the key-value heads, counted from 0 in ascending order, that see
    the whole past, and with them the query heads that read them; the others see the window. Empty for every
    other block. None: no block has such heads. They are ConSA's KV-head-wise masks (2606.18056)."""
    rotary: RotaryConfig | None = RotaryConfig()
    """Positions of these blocks; None: no positions."""

    def __post_init__(self) -> None:
        positive(self, "size")


@dataclass(frozen=True)
class MLPConfig:
    """The dense MLP. Raises ``ValueError`` for an unknown kind."""

    kind: str = "swiglu"
    """One of `MLPS`."""
    size: int | None = None
    """Inner width, in channels; None: `hybrid.models.mlps.inner_width`."""

    def __post_init__(self) -> None:
        MLPS.check(self.kind)
        positive(self, *(["size"] if self.size is not None else []))


@dataclass(frozen=True)
class ExpertsConfig:
    """The layer of experts of the `e` blocks. Raises ``ValueError`` for an unknown kind."""

    kind: str
    """One of `EXPERTS`."""
    number: int
    """Experts, of which a router chooses for each token."""
    active: int
    """Experts that a token is sent to."""
    size: int
    """Inner width of one expert, in channels."""

    def __post_init__(self) -> None:
        EXPERTS.check(self.kind)
        positive(self, "number", "active", "size")
        if self.active > self.number:
            raise ValueError(f"active must be at most number {self.number}; got {self.active}")


@dataclass(frozen=True)
class ModelConfig:
    """A `HybridLM`: its blocks and their widths.

    A part that no block of the layout holds is ``None``, whatever is given: equal models have equal configs.
    Raises ``ValueError`` for a part that a block needs and that is missing, and for widths that heads do not
    divide.
    """

    layout: Layout
    """What each block holds; a string or list of letters is parsed."""
    linear: LinearConfig | None = None
    """The linear mixer; a mixer's name stands for it with its default heads."""
    attention: AttentionConfig | None = AttentionConfig()
    """Softmax attention."""
    window: WindowConfig | None = None
    """What windowed attention sees."""
    mlp: MLPConfig | None = field(default_factory=MLPConfig)
    """The dense MLP."""
    experts: ExpertsConfig | None = None
    """The experts."""
    vocab_size: int = 32_000
    """Number of token ids."""
    hidden_size: int = 1024
    """Width of the residual stream, in channels."""
    conv: int | str = "reference"
    """Width of the causal short convolution: "reference" (each mixer as published; none on attention),
    "none", or one width in tokens for every mixer, attention included (the shift-matched arm)."""
    tie_embeddings: bool = False
    """Share the embedding matrix with the output layer."""
    norm_eps: float = 1e-6
    """Added under the root of every RMSNorm, but for those that a mixer or `qk_norm_eps` fixes."""
    start: StartConfig = field(default_factory=StartConfig)
    """How parameters are drawn."""

    def __post_init__(self) -> None:
        floats(self)
        above_zero(self, "norm_eps")
        positive(self, "vocab_size", "hidden_size")
        if self.tie_embeddings and self.start.unit_embeddings:
            raise ValueError(
                "tie_embeddings must be False where embeddings start at 1 (start.unit_embeddings): the "
                "output layer would as well; got True"
            )
        object.__setattr__(self, "layout", Layout.parse(self.layout))
        if isinstance(self.linear, str):
            object.__setattr__(self, "linear", LinearConfig(self.linear))
        held = {
            "linear": ("linear",),
            "attention": ("full", "window"),
            "window": ("window",),
            "mlp": ("dense",),
            "experts": ("experts",),
        }
        for name, parts in held.items():
            if not any(map(self.layout.uses, parts)):
                object.__setattr__(self, name, None)
            elif getattr(self, name) is None:
                more = f"; its mixer is one of {', '.join(MIXERS)}" if name == "linear" else ""
                raise ValueError(f"layout {self.layout} has blocks that need `{name}`; got None{more}")
        if self.attention is not None:
            self._check_attention()
        if self.window is not None and self.window.full_heads is not None:
            object.__setattr__(self, "window", _checked_heads(self))
        if self.conv not in ("reference", "none") and (
            isinstance(self.conv, (str, bool)) or not isinstance(self.conv, int) or self.conv < 2
        ):
            raise ValueError(f"conv must be 'reference', 'none' or a width of at least 2; got {self.conv!r}")
        side_by_side = any(len(kind.mixers) > 1 for kind in self.layout.kinds)
        if side_by_side and self.head_dim % (4 if self.attention.rotary else 2):
            raise ValueError(
                "attention beside a linear mixer has heads of half the width, even where positions are "
                f"rotary; got {self.head_dim} channels a head"
            )
        if self.linear is not None:
            kind = MIXERS[self.linear.mixer]
            heads = kind.heads_of(self)
            if side_by_side:
                kind.narrow(heads)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.layout)

    @property
    def kv_heads(self) -> int:
        """Key and value heads of the attention blocks."""
        return self.attention.num_kv_heads or self.attention.num_heads

    @property
    def head_dim(self) -> int:
        """Channels of one head of the attention blocks."""
        return self.attention.head_dim or self.hidden_size // self.attention.num_heads

    @property
    def mixer_name(self) -> str:
        """The linear mixer, or "full" where no block holds one."""
        return self.linear.mixer if self.linear is not None else "full"

    def _check_attention(self) -> None:
        heads = self.attention.num_heads
        if self.attention.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"attention.num_heads must divide hidden_size {self.hidden_size}; got {heads}")
        rotary = [self.attention.rotary] if self.layout.uses("full") else []
        rotary += [self.window.rotary] if self.window is not None else []
        if self.head_dim % 2 and any(rotary):
            raise ValueError(
                f"rotary positions need an even number of channels a head; got {self.head_dim} "
                "(attention.head_dim, or else hidden_size / attention.num_heads)"
            )


def _checked_heads(config: ModelConfig) -> WindowConfig:
    """The window with `full_heads` as tuples; refused unless it is the one way to write its model, which has
    one `run_id`."""
    given, kv_heads = config.window.full_heads, config.kv_heads
    try:
        blocks = tuple(tuple(heads) for heads in given)
    except TypeError:
        raise ValueError(f"full_heads must be None or one tuple of heads a block; got {given!r}") from None
    if len(blocks) != config.depth:
        raise ValueError(f"full_heads must hold {config.depth} tuples, one a block; got {len(blocks)}")
    for index, (kind, heads) in enumerate(zip(config.layout.kinds, blocks, strict=True)):
        if kind.mixers != ("window",) and heads:
            raise ValueError(
                f"full_heads of block {index}, {config.layout.letters[index]}, must be (): only the heads of "
                f"a windowed block can differ; got {heads!r}"
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
    return replace(config.window, full_heads=blocks)
