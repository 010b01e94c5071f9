"""The main paper's own scale: 340M parameters on 20B tokens and 1.3B on 100B (arXiv 2507.06457, 3.5).

The paper prints sizes in tokens, optimiser and schedule, and leaves most else open. Every value here
says in `CHOICES` whether it is printed, found in the released checkpoints or the training code they
were made with (flame), inferred, or unknown; `choices` shows it beside the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hybrid.config import (
    MIXERS,
    AttentionConfig,
    LinearConfig,
    MLPConfig,
    ModelConfig,
    RunSpec,
    TaskConfig,
    TrainConfig,
)
from hybrid.config.layout import Layout
from hybrid.models.cost import match_parameters, parameters
from hybrid.models.mlps import inner_width
from hybrid.papers.published import paper_mixers, recipe_heads

if TYPE_CHECKING:
    import pandas

DEPTH = 24
RATIOS = ("pure", "24:1", "12:1", "6:1", "3:1", "full")
ARMS = ("matched", "published")
CONTEXT = 4096
MLP_STEP = 64
"""Matched MLP widths are multiples of this, which tensor cores need to be fast."""
SIZES = {
    "340m": {"hidden_size": 1024, "num_heads": 16, "tokens": 20e9, "batch_size": 128, "lr": 1e-3},
    "1.3b": {"hidden_size": 2048, "num_heads": 32, "tokens": 100e9, "batch_size": 256, "lr": 3e-4},
}
TASK = TaskConfig(
    corpus="hub:HuggingFaceFW/fineweb-edu:sample-100BT",
    tokenizer="m-a-p/1.3B-100B-GatedDeltaNet-pure",
    seq_len=CONTEXT,
    recall_fraction=0.0,
)
"""The text of both sizes but for its number of tokens, `corpus_tokens`, which `paper` takes from the size."""

CHOICES = {
    "corpus": (
        "printed",
        "FineWeb-Edu, section 3.5; that it is the sample of 100B tokens is unknown: flame's",
    ),
    "corpus_tokens": (
        "inferred",
        "as many as a run sees, and a thousandth more to hold some out; windows start at random places",
    ),
    "tokenizer": ("found", "32,000 pieces, Llama family, in two released checkpoints; one for all: inferred"),
    "seq_len": ("printed", "v2, limitations; v1 prints 2,048 beside the same tables"),
    "vocab_size": ("found", "released Gated DeltaNet checkpoints"),
    "hidden_size": ("found", "released Gated DeltaNet checkpoints of both sizes"),
    "mlp_size": (
        "inferred",
        "the library's defaults, as in the released Gated DeltaNet; RetNet's is narrower",
    ),
    "num_heads": (
        "inferred",
        "found for Gated DeltaNet alone; the other mixers have flame's or the library's",
    ),
    "attn_heads": (
        "unknown",
        "flame's Transformers; heads, key-value heads and rotary base are not published",
    ),
    "layout": (
        "found",
        "24 blocks, one full block at the end of every r: 12:1 and 3:1 found, others inferred",
    ),
    "conv": ("found", "only the two delta-rule mixers have one; arm 'matched': width 4 everywhere, ours"),
    "init_std": ("unknown", "the library's default before and after spring 2025; in between it was 0.006"),
    "steps": ("inferred", "printed tokens over tokens a step"),
    "batch_size": (
        "inferred",
        "1M tokens a step printed at 1.3B; at 340M 50k are printed, 0.5M taken: 50k would make 400,000 steps",
    ),
    "accumulate": ("unknown", "chosen so that 8 devices hold 4 sequences each at a time"),
    "lr": ("unknown", "flame's: 1e-3 in its example of 340M, 3e-4 in its general settings"),
    "warmup": ("unknown", "flame's; linear, then the printed cosine, down to flame's tenth"),
    "betas": ("unknown", "flame's; AdamW is printed"),
    "eps": ("unknown", "flame's"),
    "weight_decay": ("unknown", "flame's"),
    "decay": ("unknown", "flame's optimiser has one group of parameters"),
    "clip": ("unknown", "flame's"),
    "skip_nonfinite": ("unknown", "flame's"),
    "precision": ("unknown", "flame keeps shards and sums in float32 and multiplies in bfloat16"),
    "seed": ("unknown", "no number of seeds is printed; one run a cell is assumed"),
}
"""Field of a run spec -> how its value is known ("printed" in the paper, "found", "inferred" or
"unknown": the paper is silent and the value is a choice), and where it comes from."""


def paper(size: str, mixer: str, ratio: str, matched: bool = False, seed: int = 42) -> RunSpec:
    """One run of the paper.

    Args:
        size: "340m" or "1.3b".
        mixer: one of `paper_mixers`; a full-attention model has none and ignores it.
        ratio: one of `RATIOS`, under the period rule of the released checkpoints.
        matched: every mixer, full attention too, gets a short convolution of width 4, and the MLP's
            width makes all models of a size equal in parameters within 2 %. Otherwise the model is the
            released one: Gated DeltaNet then holds 7 % more parameters than full attention.
        seed: of the run.

    Raises:
        ValueError: a name that is not allowed, with the allowed ones.
    """
    for name, value, allowed in (
        ("size", size, SIZES),
        ("mixer", mixer, paper_mixers()),
        ("ratio", ratio, RATIOS),
    ):
        if value not in allowed:
            raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(allowed)}")
    given = SIZES[size]
    steps = round(given["tokens"] / (given["batch_size"] * CONTEXT))
    train = TrainConfig(
        steps=steps,
        batch_size=given["batch_size"],
        accumulate=given["batch_size"] // 32,
        lr=given["lr"],
        warmup=1024,
        decay="all",
        eps=1e-15,
        skip_nonfinite=True,
        precision="bf16-mixed",
        eval_every=1000,
    )
    seen = steps * train.batch_size * CONTEXT
    task = replace(TASK, corpus_tokens=seen + seen // 1000)
    return RunSpec(_model(size, mixer, ratio, matched), task, train, seed)


def paper_grid(
    mixers: Sequence[str] = paper_mixers(),
    ratios: Sequence[str] = RATIOS,
    seeds: Sequence[int] = (42,),
    arm: str = "matched",
) -> list[RunSpec]:
    """The runs of the paper at both sizes, smaller first; full attention is one run a size and seed.

    The arm "matched" is `paper` with ``matched=True``, "published" the released sizes. Raises
    ``ValueError`` naming an unknown mixer, ratio or arm.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}; allowed: {', '.join(ARMS)}")
    runs = (
        paper(size, mixer, ratio, arm == "matched", seed)
        for size in SIZES
        for seed in seeds
        for mixer in mixers
        for ratio in ratios
    )
    return list(dict.fromkeys(runs))


@dataclass(frozen=True)
class Paper:
    """The paper's own scale, beside the small ones of `hybrid.studies.scales`: two sizes of one depth."""

    depth: int = DEPTH
    """Blocks of a model."""
    ratios: tuple[str, ...] = RATIOS
    """The paper's ratio labels, fewest full blocks first."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Learning rates were not chosen by mixer."""
    seeds: tuple[int, ...] = (42,)
    """The paper prints one run a cell; the seed is that of the training code."""

    def specs(
        self, mixers: Sequence[str], ratios: Sequence[str], seeds: Sequence[int], arm: str
    ) -> list[RunSpec]:
        """See `paper_grid`."""
        return paper_grid(mixers, ratios, seeds, arm)

    def resized(self, depth: int | None, steps: int | None) -> Paper:
        """Raises ``ValueError`` if anything is to change: a shorter rehearsal is `rehearsal`."""
        if depth is not None or steps is not None:
            raise ValueError(f"scale paper has a depth and steps of its own; got {depth=}, {steps=}")
        return self


def rehearsal(spec: RunSpec) -> RunSpec:
    """Twenty steps of the same recipe, a sixteenth as wide, on the last three blocks and on the standard
    library's text: what to run before renting machines, on the devices and with the strategy meant."""
    model = spec.model
    linear = model.linear
    if linear is not None and linear.head_k_dim:
        narrow = {name: getattr(linear, name) // 16 for name in ("head_k_dim", "head_v_dim")}
        linear = replace(linear, **narrow)
    return spec.with_(
        layout=str(model.layout)[-3:],
        linear=linear,
        mlp=MLPConfig(size=128),
        hidden_size=model.hidden_size // 16,
        vocab_size=256,
        corpus="stdlib",
        tokenizer="bytes",
        corpus_tokens=TaskConfig().corpus_tokens,
        seq_len=64,
        eval_sequences=16,
        steps=20,
        warmup=5,
        batch_size=8,
        accumulate=2,
        eval_every=10,
    )


def choices(spec: RunSpec) -> pandas.DataFrame:
    """What a run of the paper is made of: one row a field, with columns field, value, known and source."""
    import pandas as pd

    model = spec.model
    values = {"seed": spec.seed} | vars(model) | vars(spec.task) | vars(spec.train)
    linear = model.linear and MIXERS[model.linear.mixer].heads_of(model).num
    attention = model.attention and model.attention.num_heads
    values |= {"layout": str(model.layout), "init_std": model.start.std, "mlp_size": inner_width(model)}
    values |= {"num_heads": linear, "attn_heads": attention}
    rows = [(name, values[name], *known) for name, known in CHOICES.items()]
    return pd.DataFrame(rows, columns=["field", "value", "known", "source"])


def _model(size: str, mixer: str, ratio: str, matched: bool) -> ModelConfig:
    config = _build(size, mixer, ratio, matched)
    if ratio == "full" or not matched:
        return config
    return match_parameters(config, parameters(_build(size, mixer, "full", matched)), MLP_STEP)


def _build(size: str, mixer: str, ratio: str, matched: bool) -> ModelConfig:
    h = SIZES[size]["hidden_size"]
    return ModelConfig(
        layout=Layout.from_ratio(ratio, DEPTH),
        linear=LinearConfig(mixer, **recipe_heads(mixer, h)),
        attention=AttentionConfig(SIZES[size]["num_heads"]),
        hidden_size=h,
        conv=4 if matched else "reference",
    )
