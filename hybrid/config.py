"""What a run is: frozen descriptions of a model, its task and its training.

Every field is documented by the string below it. A wrong value is refused here, where it enters,
with the offending value and the allowed ones.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace

from hybrid.layout import Layout
from hybrid.specs import Spec

MIXERS = ("hgrn", "retnet", "gla", "hgrn2", "deltanet", "gated_deltanet")
DECAYS = ("matrices", "all")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true")


def _positive(config, *names: str) -> None:
    """Refuse any named integer field that is not a whole number of at least one."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


def _floats(config) -> None:
    """Turn whole numbers in fields of real ones into floats: equal specs have one name."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type in ("float", "float | None") and isinstance(value, int):
            object.__setattr__(config, field.name, float(value))


def _share(config, name: str) -> None:
    value = getattr(config, name)
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1; got {value!r}")


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
        _floats(self)
        object.__setattr__(self, "layout", Layout.parse(self.layout))
        if self.mixer not in MIXERS:
            raise ValueError(f"unknown mixer {self.mixer!r}; allowed: {', '.join(MIXERS)}")
        optional = ("mlp_size", "num_heads", "head_k_dim", "head_v_dim", "window")
        optional += ("attn_kv_heads", "attn_head_dim")
        given = [name for name in optional if getattr(self, name) is not None]
        _positive(self, "vocab_size", "hidden_size", "attn_heads", *given)
        if self.attn_head_dim is None and self.hidden_size % self.attn_heads:
            raise ValueError(f"attn_heads must divide hidden_size {self.hidden_size}; got {self.attn_heads}")
        if self.head_dim % 2 and self.rope_theta is not None:
            raise ValueError(
                f"rotary positions need an even number of channels a head; got {self.head_dim} "
                "(attn_head_dim, or else hidden_size / attn_heads)"
            )
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


@dataclass(frozen=True)
class TaskConfig:
    """What a model is trained and measured on: text, synthetic recall, or a mixture of both.

    Text tokens keep their ids; recall symbols have ids of their own above them, so that one model
    holds both tasks. Recall is multi-query associative recall (Arora et al., Zoology, 2312.04927).
    """

    corpus: str = "stdlib"
    """Text: "stdlib" (the running interpreter's library sources, no network), a path or glob of
    text or parquet files, or "hub:NAME" or "hub:NAME:SUBSET" for a hub data set, streamed."""
    tokenizer: str = "bytes"
    """ "bytes" (256 ids) or the name or path of a Hugging Face tokenizer."""
    corpus_tokens: int = 50_000_000
    """Tokens read from the corpus, at most, held-out ones included; reading stops with the documents
    that reach it. The default is held in memory, more lie on disk (`hybrid.data.shards`)."""
    seq_len: int = 128
    """Tokens of a training sequence, text or recall."""
    recall_fraction: float = 0.5
    """Share of the training sequences that are recall; 0 is text only, 1 recall only."""
    pairs: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Loads: numbers of key-value pairs, drawn uniformly for every recall sequence."""
    queries: int | None = None
    """Questions a training sequence asks: None asks each key once, as published; a number asks that
    often, with repetition, and shows the value after each question, which speeds up learning.
    Recall is always measured in the published form."""
    suite_fraction: float = 0.0
    """Share of the recall sequences that are tasks of `hybrid.data.suite`, all thirteen equally often;
    the others are multi-query associative recall."""
    recall_vocab: int = 128
    """Recall symbols: half are keys, half are values."""
    eval_pairs: tuple[int, ...] = (4, 8, 16)
    """Loads at which recall is measured."""
    eval_lengths: tuple[int, ...] = (128, 256)
    """Lengths, in tokens, at which recall is measured."""
    eval_sequences: int = 256
    """Sequences behind each measured number."""

    def __post_init__(self) -> None:
        _floats(self)
        for name in ("pairs", "eval_pairs", "eval_lengths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            values = getattr(self, name)
            if not values or any(not isinstance(v, int) or v < 1 for v in values):
                raise ValueError(f"{name} must be whole numbers of at least 1; got {values!r}")
        _positive(self, "corpus_tokens", "seq_len", "recall_vocab", "eval_sequences")
        _share(self, "recall_fraction")
        _share(self, "suite_fraction")
        if self.has_suite:
            for name, least in (("seq_len", 64), ("recall_vocab", 32)):
                if getattr(self, name) < least:
                    raise ValueError(f"the suite needs {name} of at least {least}; got {getattr(self, name)}")
        if self.recall_fraction > 0:
            most = min(self.seq_len // 4, self.recall_vocab // 2)
            if max(self.pairs) > most:
                raise ValueError(
                    f"pairs must be at most {most} (a quarter of seq_len {self.seq_len}, half of "
                    f"recall_vocab {self.recall_vocab}); got {max(self.pairs)}"
                )
            room = self.seq_len // 2 - max(self.pairs)
            if self.queries is not None and not 1 <= self.queries <= room:
                raise ValueError(
                    f"queries must be None or 1 to {room} (every second token of seq_len "
                    f"{self.seq_len} after {max(self.pairs)} pairs); got {self.queries!r}"
                )
            if max(self.eval_pairs) > self.recall_vocab // 2:
                raise ValueError(
                    f"eval_pairs must be at most {self.recall_vocab // 2} (half of recall_vocab "
                    f"{self.recall_vocab}); got {max(self.eval_pairs)}"
                )

    @property
    def has_suite(self) -> bool:
        """Whether the thirteen tasks of the suite are trained and measured."""
        return self.recall_fraction > 0 and self.suite_fraction > 0


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained: AdamW with linear warm-up and a cosine down to a share of the peak."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    """Sequences an optimiser step sees on one device, accumulation included."""
    accumulate: int = 1
    """Forward and backward passes an optimiser step is cut into."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 100
    """Steps of linear warm-up."""
    final: float = 0.1
    """Learning rate of the last step, as a share of the peak; 1 is a constant rate."""
    weight_decay: float = 0.1
    """Decoupled weight decay."""
    decay: str = "matrices"
    """What it decays: "matrices" (weight matrices; not norms, biases, decays and bounds) or "all"
    parameters, as the published training code does."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decays."""
    eps: float = 1e-8
    """AdamW's summand in the denominator; the published training code has 1e-15."""
    clip: float = 1.0
    """Largest gradient norm."""
    skip_nonfinite: bool = False
    """Leave a step out whose gradient norm is not finite, as the published training code does. The
    run then counts as diverged only if its loss is not finite at a point of the learning curve."""
    precision: str = "auto"
    """Lightning's precision; "auto" is bf16-mixed on a GPU and 32-true elsewhere."""
    eval_every: int = 100
    """Steps between two points of the learning curve."""

    def __post_init__(self) -> None:
        _floats(self)
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        _positive(self, "steps", "batch_size", "accumulate", "eval_every")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size {self.batch_size}; got {self.accumulate}")
        if not isinstance(self.warmup, int) or not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup must be between 0 and steps {self.steps}; got {self.warmup!r}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive; got {self.lr!r}")
        _share(self, "final")
        if not self.eps > 0:
            raise ValueError(f"eps must be positive; got {self.eps!r}")
        if self.decay not in DECAYS:
            raise ValueError(f"unknown decay {self.decay!r}; allowed: {', '.join(DECAYS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; allowed: {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class RunSpec(Spec):
    """A frozen description of one training run; its `run_id` is a hash of its canonical JSON."""

    kind = "run"
    layer = "run"

    model: ModelConfig
    task: TaskConfig
    train: TrainConfig
    seed: int = 0
    """Seeds initialisation, data order and recall sequences; whole number from 0."""

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0; got {self.seed!r}")

    def to_dict(self) -> dict:
        """Plain JSON types, every field present; `from_dict` reads it back."""
        spec = asdict(self)
        spec["model"]["layout"] = str(self.model.layout)
        return json.loads(json.dumps(spec))

    @classmethod
    def from_dict(cls, spec: dict) -> RunSpec:
        """The inverse of `to_dict`. Raises ``ValueError`` naming an unknown or missing part."""
        parts = {"model": ModelConfig, "task": TaskConfig, "train": TrainConfig}
        _known(cls, spec)
        missing = [name for name in parts if name not in spec]
        if missing:
            raise ValueError(f"a run spec needs {', '.join(parts)}; missing {', '.join(missing)}")
        for name, kind in parts.items():
            _known(kind, spec[name])
        return cls(**{n: kind(**spec[n]) for n, kind in parts.items()}, seed=spec.get("seed", 0))

    @property
    def title(self) -> str:
        """A few words for messages and tables."""
        return f"{self.model.mixer} {self.model.layout}, seed {self.seed}"

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the spec's canonical JSON.

        Fields at their default are left out of it, so that a field added later renames no run.
        """
        parts = {
            name: {
                f.name: value
                for f in fields(kind)
                if (value := getattr(getattr(self, name), f.name)) != f.default
            }
            for name, kind in (("model", ModelConfig), ("task", TaskConfig), ("train", TrainConfig))
        }
        parts["model"]["layout"] = str(self.model.layout)
        text = json.dumps({**parts, "seed": self.seed}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def with_(self, **changes) -> RunSpec:
        """A copy with fields of any part changed: ``spec.with_(lr=3e-4, seed=1)``."""
        parts = {"model": self.model, "task": self.task, "train": self.train}
        for name, part in parts.items():
            mine = {k: changes.pop(k) for k in list(changes) if k in {f.name for f in fields(part)}}
            parts[name] = replace(part, **mine)
        seed = changes.pop("seed", self.seed)
        if changes:
            raise ValueError(f"no part of a run spec has a field {next(iter(changes))!r}")
        return RunSpec(**parts, seed=seed)


def _known(kind, values: dict) -> None:
    allowed = [f.name for f in fields(kind)]
    for name in values:
        if name not in allowed:
            raise ValueError(f"unknown field {name!r} of {kind.__name__}; allowed: {', '.join(allowed)}")
