"""Which runs the chapters on layer selection need: one teacher, all selectors, one follow-up for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hybrid.config import RunSpec
from hybrid.config.layout import Layout
from hybrid.config.specs import Spec
from hybrid.conversion.specs import AlignSpec, HybridSpec
from hybrid.runs.store import Store
from hybrid.selection.base import Selector, SelectSpec
from hybrid.selection.consa_spec import UNITS, ConsaSpec
from hybrid.selection.drawn import Random, Uniform
from hybrid.selection.exhaustive import Exhaustive
from hybrid.selection.flashmorph import FlashMorph
from hybrid.selection.masks import kept
from hybrid.selection.restored import Restoration
from hybrid.selection.scored import HaloRatio, OutputError, RecallAlone, RecallDrop
from hybrid.studies.grid import SWEEP_SEED
from hybrid.studies.scales import MAIN_MIXER, scale
from hybrid.studies.selection_scales import SelectionScale, selection_scale

CHEAP_SHARES = (0.25, 0.5, 0.75)
"""ConSA's targets: shares of the units that take the cheap branch."""
BRANCH = MAIN_MIXER
"""The linear mixer of the comparison."""
OTHER_BRANCHES = ("gla", "retnet")
"""Further ones, to see whether the chosen blocks depend on the mixer. RetNet, whose decay is fixed, stands
for the paper's Lightning Attention-2."""


class NotStored(ValueError):
    """What a spec follows from is not stored yet."""


def teacher(scale_name: str) -> RunSpec:
    """The run that trains the teacher: full attention in every block, on the task of the scale, at the length
    of layer selection if it has its own."""
    size = selection_scale(scale_name)
    base = replace(scale(scale_name).resized(size.depth, size.teacher_steps), heads=size.heads)
    model = base.model(BRANCH, Layout.from_ratio("full", size.depth))
    model = replace(model, attention=replace(model.attention, num_kv_heads=size.kv_heads))
    task = replace(base.task, eval_sequences=size.eval_sequences)
    if size.seq_len is not None:
        lengths = tuple(factor * size.seq_len for factor in (1, 2, 4))
        task = replace(task, seq_len=size.seq_len, eval_lengths=lengths)
    return RunSpec(model, task, base.train, seed=0)


def alignment(scale_name: str, seed: int, branch: str = BRANCH) -> AlignSpec:
    """The teacher with its second mixers; those of a window are the teacher's own, whatever the seed."""
    size = selection_scale(scale_name)
    if branch == "window":
        return AlignSpec(teacher(scale_name), branch, window=size.window)
    return AlignSpec(teacher(scale_name), branch, size.align, seed=seed)


def seeds_of(scale_name: str, seeds: Sequence[int] = ()) -> tuple[int, ...]:
    """These seeds, or those of the scale where there are none."""
    return tuple(seeds) or selection_scale(scale_name).seeds


def alignments(scale_name: str, seeds: Sequence[int] = ()) -> list[AlignSpec]:
    """Stage 1 of every seed, and of the other branches on the first seed."""
    seeds = seeds_of(scale_name, seeds)
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
        "recall alone": RecallAlone(sequences=size.sequences),
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


def selections(scale_name: str, seeds: Sequence[int] = ()) -> dict[str, list[SelectSpec]]:
    """Name of a selector or an ablation -> its runs: one a seed, and of FlashMorph also those on the other
    branches and on the window. No seeds are those of the scale, here and below."""
    size, seeds = selection_scale(scale_name), seeds_of(scale_name, seeds)
    named = selectors(scale_name) | ablations(scale_name)

    def spec(selector: Selector, seed: int, branch: str = BRANCH) -> SelectSpec:
        return SelectSpec(alignment(scale_name, seed, branch), selector, size.budgets, size.passkeys, seed)

    found = {name: [spec(selector, seed) for seed in seeds] for name, selector in named.items()}
    gates = named["FlashMorph"]
    for branch in OTHER_BRANCHES:
        found[f"FlashMorph on {branch}"] = [spec(gates, seeds[0], branch)]
    found["FlashMorph on window"] = [spec(gates, seed, "window") for seed in seeds]
    return found


def hybrids(scale_name: str, seeds: Sequence[int] = ()) -> list[HybridSpec]:
    """The follow-up of every layout that a selector of the comparison chose, seed by seed; two selectors that
    chose the same layout share it.

    Raises `NotStored` when a selection is not there yet: which layouts there are follows from them.
    """
    size, compared = selection_scale(scale_name), selectors(scale_name)
    found: dict[HybridSpec, None] = {}
    for name, specs in selections(scale_name, seeds).items():
        for spec in specs if name in compared else ():
            for row in _stored(spec, name, scale_name):
                found[follow_up(size, spec, row["layout"])] = None
    return list(found)


def controls(scale_name: str, seeds: Sequence[int] = ()) -> list[HybridSpec]:
    """The teacher itself through stage 3 alone, one a seed: measured as its hybrids are, it has read the same
    longer texts."""
    size = selection_scale(scale_name)
    layout = Layout.from_ratio("full", size.depth)
    return [
        HybridSpec(
            alignment(scale_name, seed, "window"),
            layout,
            finetune=size.finetune,
            passkeys=size.passkeys,
            seed=seed,
        )
        for seed in seeds_of(scale_name, seeds)
    ]


def _stored(spec: SelectSpec, name: str, scale_name: str) -> list[dict]:
    """Rows of the layouts of a stored selection."""
    result = Store().read(spec)
    if result is None:
        raise NotStored(
            f"the selection {spec.run_id} ({name}, seed {spec.seed}) is not stored: run "
            f"`python -m hybrid runs --study selection --scale {scale_name}` first"
        )
    return result.metrics["layouts"]


def every(name: str, scale_name: str) -> list[Spec]:
    """All specs of one part: "alignment", "selection", "conversion", "consa" or "mask_rates"."""
    if name == "alignment":
        # The teacher last: the first alignment trains it, keeps its weights and stores its result.
        return [*alignments(scale_name), teacher(scale_name)]
    if name == "conversion":
        return [*controls(scale_name), *hybrids(scale_name)]
    if name == "mask_rates":
        return mask_rates(scale_name)
    named = selections(scale_name) if name == "selection" else masks(scale_name) | given(scale_name)
    return [spec for specs in named.values() for spec in specs]


def follow_up(size: SelectionScale, spec: SelectSpec, layout: str) -> HybridSpec:
    """Stages 2 and 3 of one chosen layout."""
    return HybridSpec(spec.align, layout, size.distill, size.finetune, passkeys=size.passkeys, seed=spec.seed)


def masks(scale_name: str, seeds: Sequence[int] = ()) -> dict[str, list[ConsaSpec]]:
    """Name of an arm of ConSA's study -> its runs, one a seed and share."""
    size, seeds = selection_scale(scale_name), seeds_of(scale_name, seeds)
    learnt = {"mask_lr": size.mask_lr, "multiplier_lr": size.multiplier_lr}

    def runs(branch: str = "window", shares: Iterable[float | None] = CHEAP_SHARES, **arm) -> list[ConsaSpec]:
        return [_masked(scale_name, seed, branch, share=share, **arm) for seed in seeds for share in shares]

    return {
        "dense": runs(shares=[None], method="dense"),
        "rule, blocks": runs(method="rule"),
        "rule, heads": runs(method="rule", units="head"),
        "ConSA, blocks": runs(**learnt),
        "ConSA, heads of all blocks": runs(units="head", **learnt),
        "ConSA, heads of each block": runs(units="head", scope="layer", **learnt),
        "scalar gates, blocks": runs(method="l1", mask_lr=size.gate_lr, l1=size.gate_price),
        "ConSA, full against linear": runs(BRANCH, shares=[0.5], **learnt),
    }


def mask_rates(scale_name: str) -> list[ConsaSpec]:
    """What `SelectionScale.multiplier_lr` was chosen from: ConSA by block and by head at half of this rate,
    at it and at twice it, on `SWEEP_SEED`; and `SelectionScale.gate_price`: scalar gates at half of this
    price, at it, at twice it and at the published one."""
    size = selection_scale(scale_name)
    prices = dict.fromkeys([*(factor * size.gate_price for factor in (0.5, 1, 2)), ConsaSpec.l1])
    gates = [
        _masked(scale_name, SWEEP_SEED, "window", share=0.5, method="l1", mask_lr=size.gate_lr, l1=price)
        for price in prices
    ]
    return gates + [
        _masked(
            scale_name,
            SWEEP_SEED,
            "window",
            units=units,
            share=share,
            mask_lr=size.mask_lr,
            multiplier_lr=factor * size.multiplier_lr,
        )
        for units in UNITS
        for factor in (0.5, 1, 2)
        for share in CHEAP_SHARES
    ]


def given(scale_name: str, seeds: Sequence[int] = ()) -> dict[str, list[ConsaSpec]]:
    """The joint experiment: full attention stays where FlashMorph's gates, learnt on the same choice of full
    attention or window, are highest, and the weights learn on as in every arm of `masks`.

    Raises `NotStored` when a selection is not there yet.
    """
    depth, name = selection_scale(scale_name).depth, "FlashMorph on window"
    wanted = {kept(depth, share): share for share in CHEAP_SHARES}
    found = []
    for spec in selections(scale_name, seeds)[name]:
        for row in _stored(spec, name, scale_name):
            if row["budget"] in wanted:
                blocks = {"share": wanted[row["budget"]], "given": row["layout"]}
                found.append(_masked(scale_name, spec.seed, "window", method="given", **blocks))
    return {"FlashMorph's blocks": found}


def _masked(scale_name: str, seed: int, branch: str, **arm) -> ConsaSpec:
    size = selection_scale(scale_name)
    aligned = alignment(scale_name, seed, branch)
    return ConsaSpec(aligned, size.learn, size.train, passkeys=size.passkeys, seed=seed, **arm)
