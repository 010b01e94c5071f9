"""Time of whole training steps: beside a peer of the same size, by part, by loop, and side by side."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

from torch import nn
from tqdm.auto import tqdm

from hybrid.bench import BenchSpec, clock, packed
from hybrid.bench.step import PARTS, Step, fla_model, hybrid, llama
from hybrid.config import RunSpec
from hybrid.data.module import TaskData
from hybrid.models.cost import flops_per_token, parameters
from hybrid.papers.published import paper_mixers
from hybrid.studies.paper import Paper
from hybrid.studies.scales import MAIN_MIXER, Scale, scale
from hybrid.training.fit import LitHybridLM
from hybrid.training.loop import LearningCurve
from hybrid.training.loop import train as with_lightning

HELD = 4
"""Sequences a device holds at the paper's scale, whose recipe is made for eight devices."""
ROUNDS = 4
"""Steps of each model in a repeat."""
LOOP_STEPS = 20
"""Steps of each loop in a repeat."""


def measure(spec: BenchSpec, progress: bool) -> dict:
    """Whole steps of the grid's models with the convolution of their reference, in one process.

    Returns:
        ``limits``, see `clock.limits`; ``steps``, a row a model: implementation, mixer, ratio, layout,
        parameters, tokens a step, ms and spread, tokens_per_second, ratio of its median to that of
        transformers' Llama, gflops a second (three times the forward pass by `models.cost`; None for the
        peer), share of the rate of a large matrix product, and peak_bytes as `Step.peak`; ``parts``, a row
        a part of the step of a model: ms and spread; ``loops``, a step in the bare loop, on a GPU in the same
        played back (`training.cuda_graphs`), and in Lightning's, with the ratio to the bare one; ``packed``,
        a row a number of processes: tokens_per_second of all of them.
    """
    limits = clock.limits(spec.device, spec.repeats)
    chosen = candidates(spec.scale, spec.device)
    steps = {name: Step(run, build, spec.device) for name, (run, build) in chosen.items()}
    bar = partial(tqdm, disable=not progress, unit="table")
    tables = {"limits": limits}
    sections = {
        "steps": lambda: _steps(steps, spec, clock.rate(limits, "product")),
        "parts": lambda: _parts(steps, spec),
        "loops": lambda: _loops(steps["hybrid full"], spec),
        "packed": lambda: packed.measure(spec, packed_run(spec.scale)),
    }
    for name, section in bar(sections.items(), desc="training steps"):
        tables[name] = section()
    return tables


def candidates(
    scale_name: str, device: str = "cpu"
) -> dict[str, tuple[RunSpec, Callable[[RunSpec], nn.Module]]]:
    """Name -> what is trained and what builds it: our models, then, on a GPU, flash-linear-attention's of
    one linear mixer each, then Hugging Face's Llama of the sizes of the full-attention model."""
    size = scale(scale_name)
    pairs = [(MAIN_MIXER, "full"), (MAIN_MIXER, mixed(size)), *((m, "pure") for m in paper_mixers())]
    ours = {}
    for mixer, ratio in pairs:
        run = size.specs([mixer], [ratio], [0], "published")[0]
        name = "hybrid full" if ratio == "full" else f"hybrid {mixer} {ratio}"
        ours[name] = (_offline(run) if isinstance(size, Paper) else run, hybrid)
    pure = [name for name in ours if name.endswith(" pure") and device == "cuda"]
    theirs = {name.replace("hybrid", "fla"): (ours[name][0], fla_model) for name in pure}
    return ours | theirs | {"transformers Llama": (ours["hybrid full"][0], llama)}


def mixed(size: Scale | Paper) -> str:
    """The ratio of the hybrid: 3:1, or the one with the most full blocks that the depth can express."""
    return "3:1" if "3:1" in size.ratios else size.ratios[-2]


def packed_run(scale_name: str) -> RunSpec:
    """What is trained side by side: a hybrid."""
    return candidates(scale_name)[f"hybrid {MAIN_MIXER} {mixed(scale(scale_name))}"][0]


def _steps(steps: dict[str, Step], spec: BenchSpec, peak: float) -> list[dict]:
    seconds = clock.in_turn(steps, ROUNDS * spec.repeats, spec.device)
    peer = median(seconds["transformers Llama"])
    rows = []
    for name, step in steps.items():
        model, middle = step.run.model, median(seconds[name])
        held = sum(p.numel() for p in step.model.parameters())
        if held != parameters(model):
            raise ValueError(f"{name} holds {held:,} parameters, not the {parameters(model):,} of its size")
        ours = step.build is hybrid
        work = 3 * step.tokens * flops_per_token(model, step.run.task.seq_len) if ours else None
        rows.append(
            {
                "implementation": name,
                "mixer": step.run.model.mixer_name if ours else None,
                "layout": str(model.layout),
                "parameters": held,
                "tokens": step.tokens,
                **clock.summary(seconds[name]),
                "tokens_per_second": step.tokens / middle,
                "ratio": middle / peer,
                "gflops": work and work / middle / 1e9,
                "share": work and work / middle / peak,
                "peak_bytes": step.peak(),
            }
        )
    return rows


def _parts(steps: dict[str, Step], spec: BenchSpec) -> list[dict]:
    rounds = [{name: step.by_part() for name, step in steps.items()} for _ in range(spec.repeats + 1)][1:]
    return [
        {"implementation": name, "part": part, **clock.summary([round[name][part] for round in rounds])}
        for name in steps
        for part in PARTS
    ]


class LoopsInTurn(LearningCurve):
    """Seconds of Lightning's steps, everything between two batches included, and of the steps of other loops,
    one of each in turn. Nothing is evaluated in any."""

    def __init__(self, others: dict[str, Step]) -> None:
        super().__init__(lambda module: {})
        self.others = others
        self.times: dict[str, list[float]] = {name: [] for name in (*others, "lightning")}

    def on_train_start(self, trainer, module) -> None:
        super().on_train_start(trainer, module)
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        super().on_train_batch_end(trainer, module, outputs, batch, index)
        clock.wait(module.device.type)
        self.times["lightning"].append(time.perf_counter() - self.last)
        for name, step in self.others.items():
            self.times[name].append(clock.timed(step, step.device))
        self.last = time.perf_counter()


def _loops(step: Step, spec: BenchSpec) -> list[dict]:
    """A step with nothing around it, on a GPU the same played back, and one of `training.loop.train` with its
    checkpoints, its log and its clock, on the same batches; the ratio is that of all steps together."""
    warm = LOOP_STEPS
    steps = warm + spec.repeats * LOOP_STEPS
    run = step.run.with_(steps=steps, warmup=1, eval_every=LOOP_STEPS)
    others = {"bare": Step(run, hybrid, spec.device)}
    if spec.device == "cuda":
        others["played back"] = Step(run, hybrid, spec.device)
        others["played back"].record()
    loops, data = LoopsInTurn(others), TaskData(run.task, run.train, run.seed)
    with tempfile.TemporaryDirectory() as folder:
        with_lightning(LitHybridLM(run), data, loops, folder=folder, progress=False)
    counted = {name: seconds[warm:] for name, seconds in loops.times.items()}
    bare = sum(counted["bare"])
    return [
        {"loop": name, "steps": len(seconds), **clock.summary(seconds), "ratio": sum(seconds) / bare}
        for name, seconds in counted.items()
    ]


def _offline(run: RunSpec) -> RunSpec:
    """A run of the paper on the standard library's bytes, which need no network, as many as one device holds
    at a time."""
    task = replace(run.task, corpus="stdlib", tokenizer="bytes", corpus_tokens=50_000_000)
    return replace(run, task=task, train=replace(run.train, batch_size=HELD, accumulate=1))
