"""Which runs the chapters on layer selection need: one teacher, all selectors, one follow-up for each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hybrid.config import RunSpec, TrainConfig
from hybrid.conversion import AlignSpec, HybridSpec, Stage
from hybrid.data.passkeys import Passkeys
from hybrid.layout import Layout
from hybrid.scales import SCALES
from hybrid.selection.base import Selector, SelectSpec
from hybrid.selection.consa import ConsaSpec
from hybrid.selection.drawn import Random, Uniform
from hybrid.selection.exhaustive import Exhaustive
from hybrid.selection.flashmorph import GATES, FlashMorph
from hybrid.selection.restored import Restoration
from hybrid.selection.scored import HaloRatio, OutputError, RecallDrop
from hybrid.specs import Spec
from hybrid.store import Store

SHARES = (1 / 6, 1 / 4, 1 / 2)
"""Budgets: shares of the blocks that stay full; each is rounded to a whole number of blocks."""
CHEAP_SHARES = (0.25, 0.5, 0.75)
"""ConSA's targets: shares of the units that take the cheap branch."""
BRANCH = "gated_deltanet"
"""The linear mixer of the comparison."""
OTHER_BRANCHES = ("gla", "retnet")
"""Further ones, to see whether the chosen blocks depend on the mixer. RetNet, whose decay is fixed, stands
for the paper's Lightning Attention-2."""


@dataclass(frozen=True)
class SelectionScale:
    """Everything the scale dial sets for conversion and selection."""

    depth: int
    """Blocks of the teacher."""
    heads: int
    """Its query heads; as many heads has every linear mixer."""
    kv_heads: int
    """Its key-value heads."""
    teacher_steps: int
    """Optimiser steps of the teacher, on the task of the scale of the same name."""
    align: Stage
    """Stage 1."""
    distill: Stage
    """Stage 2."""
    finetune: Stage
    """Stage 3: twice the teacher's length."""
    restore: Stage
    """The short distillation of every block by `Restoration`."""
    gates: TrainConfig
    """FlashMorph's gates."""
    learn: Stage
    """ConSA's first stage, masks and weights."""
    train: Stage
    """ConSA's second stage, masks fixed."""
    window: int
    """Tokens of ConSA's window, a quarter of the teacher's length: far below it, or full attention and the
    window are one."""
    passkeys: Passkeys
    """Retrieval texts, measured up to four times the teacher's length."""
    sequences: int
    """Held-out texts behind each number of a selector."""
    most: int = 500
    """Sets that the exhaustive search may try."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of everything that follows the teacher, of which there is one."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """Numbers of full blocks."""
        return tuple(dict.fromkeys(max(1, round(share * self.depth)) for share in SHARES))


def _stage(steps: int, batch_size: int, lr: float, *, final: float = 0.1, **more) -> Stage:
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        warmup=min(20, steps // 4),
        final=final,
        weight_decay=0.0,
        eval_every=max(1, steps // 4),
    )
    return Stage(config, **more)


SELECTION: dict[str, SelectionScale] = {
    "smoke": SelectionScale(
        depth=3,
        heads=4,
        kv_heads=4,
        teacher_steps=10,
        align=_stage(4, 8, 1e-3, final=0.01),
        distill=_stage(4, 8, 1e-3),
        finetune=_stage(4, 8, 1e-3, final=1.0, seq_len=128),
        restore=_stage(2, 8, 1e-3),
        gates=replace(GATES, steps=4, batch_size=8, eval_every=2),
        learn=_stage(4, 8, 1e-3),
        train=_stage(4, 8, 1e-3),
        window=16,
        passkeys=Passkeys(eval_lengths=(64, 128), eval_sequences=8),
        sequences=8,
        seeds=(0,),
    ),
    "laptop": SelectionScale(
        depth=8,
        heads=4,
        kv_heads=4,
        teacher_steps=1800,
        align=_stage(300, 24, 3e-3, final=0.01),
        distill=_stage(150, 24, 1e-3),
        finetune=_stage(50, 12, 3e-4, final=1.0, seq_len=128),
        restore=_stage(40, 24, 1e-3),
        gates=replace(GATES, steps=150, batch_size=16, eval_every=15),
        learn=_stage(150, 24, 1e-3),
        train=_stage(300, 24, 1e-3),
        window=16,
        passkeys=Passkeys(),
        sequences=64,
    ),
    "gpu": SelectionScale(
        depth=12,
        heads=8,
        kv_heads=4,
        teacher_steps=2500,
        align=_stage(1000, 64, 1e-3, final=0.01),
        distill=_stage(500, 64, 5e-4),
        finetune=_stage(150, 32, 1e-4, final=1.0, seq_len=512),
        restore=_stage(150, 64, 5e-4),
        gates=replace(GATES, steps=400, batch_size=32, eval_every=20),
        learn=_stage(300, 64, 5e-4),
        train=_stage(900, 64, 5e-4),
        window=64,
        passkeys=Passkeys(keys=8, size=3, lengths=(256,), eval_lengths=(256, 512, 1024), eval_sequences=128),
        sequences=128,
        most=1500,
    ),
}


def selection_scale(name: str) -> SelectionScale:
    """The scale of that name. Raises ``ValueError`` naming the allowed ones."""
    if name not in SELECTION:
        raise ValueError(f"unknown scale {name!r} of layer selection; allowed: {', '.join(SELECTION)}")
    return SELECTION[name]


def teacher(scale_name: str) -> RunSpec:
    """The run that trains the teacher: full attention in every block, on the task of the scale."""
    size = selection_scale(scale_name)
    base = replace(SCALES[scale_name].resized(size.depth, size.teacher_steps), heads=size.heads)
    model = base.model(BRANCH, Layout.from_ratio("full", size.depth))
    model = replace(model, attn_kv_heads=size.kv_heads)
    return RunSpec(model, base.task, base.train, seed=0)


def alignment(scale_name: str, seed: int, branch: str = BRANCH) -> AlignSpec:
    """The teacher with its second mixers; those of a window are the teacher's own, whatever the seed."""
    size = selection_scale(scale_name)
    if branch == "window":
        return AlignSpec(teacher(scale_name), branch, window=size.window)
    return AlignSpec(teacher(scale_name), branch, size.align, seed=seed)


def alignments(scale_name: str) -> list[AlignSpec]:
    """Stage 1 of every seed, and of the other branches on the first seed."""
    seeds = selection_scale(scale_name).seeds
    return [alignment(scale_name, seed) for seed in seeds] + [
        alignment(scale_name, seeds[0], branch) for branch in OTHER_BRANCHES
    ]


def selectors(scale_name: str) -> dict[str, Selector]:
    """The selectors of the comparison by name."""
    size = selection_scale(scale_name)
    return {
        "uniform, first": Uniform("first"),
        "uniform, last": Uniform("last"),
        "random": Random(),
        "output error": OutputError(sequences=size.sequences),
        "recall drop": RecallDrop(sequences=size.sequences),
        "HALO": HaloRatio(sequences=size.sequences),
        "KL-LS": Restoration(size.restore, sequences=size.sequences),
        "FlashMorph": FlashMorph(train=size.gates),
        "exhaustive": Exhaustive(most=size.most, sequences=size.sequences),
    }


def ablations(scale_name: str) -> dict[str, Selector]:
    """FlashMorph with one thing changed, by name."""
    gates = selection_scale(scale_name).gates
    return {
        "plain text": FlashMorph(train=gates, texts="plain"),
        "teacher-forced": FlashMorph(train=gates, propagate=False),
        "half lambda": FlashMorph(train=gates, lam=0.5),
        "double lambda": FlashMorph(train=gates, lam=2.0),
    }


def selections(scale_name: str) -> dict[str, list[SelectSpec]]:
    """Name of a selector or an ablation -> its runs: one a seed, and of FlashMorph also those on the other
    branches and on the window."""
    size = selection_scale(scale_name)
    named = selectors(scale_name) | ablations(scale_name)

    def spec(selector: Selector, seed: int, branch: str = BRANCH) -> SelectSpec:
        return SelectSpec(alignment(scale_name, seed, branch), selector, size.budgets, size.passkeys, seed)

    found = {name: [spec(selector, seed) for seed in size.seeds] for name, selector in named.items()}
    gates = named["FlashMorph"]
    for branch in OTHER_BRANCHES:
        found[f"FlashMorph on {branch}"] = [spec(gates, size.seeds[0], branch)]
    found["FlashMorph on window"] = [spec(gates, seed, "window") for seed in size.seeds]
    return found


def hybrids(scale_name: str) -> list[HybridSpec]:
    """The follow-up of every layout that a selector of the comparison chose, seed by seed; two selectors that
    chose the same layout share it.

    Raises ``ValueError`` when a selection is not stored yet: which layouts there are follows from them.
    """
    size, store = selection_scale(scale_name), Store()
    found: dict[HybridSpec, None] = {}
    for name in selectors(scale_name):
        for spec in selections(scale_name)[name]:
            result = store.read(spec)
            if result is None:
                raise ValueError(
                    f"the selection {spec.run_id} ({name}, seed {spec.seed}) is not stored: run "
                    f"`python -m hybrid runs --study selection --scale {scale_name}` first"
                )
            for row in result.metrics["layouts"]:
                found[follow_up(size, spec, row["layout"])] = None
    return list(found)


def every(name: str, scale_name: str) -> list[Spec]:
    """All specs of one part: "alignment", "selection", "conversion" or "consa"."""
    if name == "alignment":
        return [teacher(scale_name), *alignments(scale_name)]
    if name == "conversion":
        return hybrids(scale_name)
    named = {"selection": selections, "consa": masks}[name](scale_name)
    return [spec for specs in named.values() for spec in specs]


def follow_up(size: SelectionScale, spec: SelectSpec, layout: str) -> HybridSpec:
    """Stages 2 and 3 of one chosen layout."""
    return HybridSpec(spec.align, layout, size.distill, size.finetune, passkeys=size.passkeys, seed=spec.seed)


def masks(scale_name: str) -> dict[str, list[ConsaSpec]]:
    """Name of an arm of ConSA's study -> its runs, one a seed and share."""
    size = selection_scale(scale_name)

    def runs(branch: str = "window", shares: Iterable[float | None] = CHEAP_SHARES, **arm) -> list[ConsaSpec]:
        return [
            ConsaSpec(
                alignment(scale_name, seed, branch),
                size.learn,
                size.train,
                share=share,
                passkeys=size.passkeys,
                seed=seed,
                **arm,
            )
            for seed in size.seeds
            for share in shares
        ]

    return {
        "dense": runs(shares=[None], method="dense"),
        "rule, blocks": runs(method="rule"),
        "rule, heads": runs(method="rule", units="head"),
        "ConSA, blocks": runs(),
        "ConSA, heads of all blocks": runs(units="head"),
        "ConSA, heads of each block": runs(units="head", scope="layer"),
        "scalar gates, blocks": runs(method="l1"),
        "ConSA, full against linear": runs(BRANCH, shares=[0.5]),
    }
