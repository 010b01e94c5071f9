"""Tiny runs of every kind, too small to learn anything: all that is asked of their numbers is to stay."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hybrid import selection
from hybrid.config import (
    MIXERS,
    AttentionConfig,
    LessonConfig,
    MLPConfig,
    ModelConfig,
    RotaryConfig,
    RunSpec,
    StartConfig,
    TaskConfig,
    TrainConfig,
    WindowConfig,
)
from hybrid.conversion.distillation import LitAlign, LitDistill, LitFinetune
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec, HybridSpec, Stage
from hybrid.data.corpus import text_vocab
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.data.suite import MARKS, TASKS
from hybrid.models.hybrid_lm import HybridLM
from hybrid.selection.base import Problem, SelectSpec
from hybrid.selection.consa import LEARNERS, masked_model
from hybrid.selection.consa_spec import ConsaSpec
from hybrid.training.fit import fit
from hybrid.training.loop import LearningCurve, LitModule, train

STEPS = 5
WINDOW = 16
HEADS = AttentionConfig(num_heads=2)
STACKS = {
    "full attention": {"layout": "FF"},
    "windows": {"layout": "WW", "window": WindowConfig(WINDOW)},
    "hybrid": {"layout": "LLF"},
    "hybrid with windows": {"layout": "LWF", "window": WindowConfig(WINDOW), "conv": 4},
    "heads of both kinds": {"layout": "WF", "window": WindowConfig(WINDOW, ((1,), ()))},
    "grouped heads": {
        "layout": "FF",
        "attention": AttentionConfig(2, num_kv_heads=1, qk_norm=True, qkv_bias=True),
    },
    "stretched positions": {
        "layout": "FF",
        "attention": replace(HEADS, rotary=RotaryConfig(stretch=(8.0, 1.0, 4.0, 32.0))),
    },
    "no positions, tied": {
        "layout": "FF",
        "attention": replace(HEADS, rotary=None),
        "tie_embeddings": True,
    },
    "side by side": {"layout": "PLF"},
    "one branch a block": {"layout": "lmfmwm", "window": WindowConfig(WINDOW), "mlp_kind": "squared_relu"},
}
"""Models of several kinds of blocks, by name: what they ask of `_model`."""
PASSKEYS = Passkeys(keys=2, size=2, lengths=(64,), eval_lengths=(64,), eval_sequences=4)
TRAIN = TrainConfig(STEPS, batch_size=4, lr=1e-2, warmup=2, precision="32-true", eval_every=1)
DEPTH = 3
MIXER = "hgrn"
"""The linear mixer where any would do."""

Numbers = dict[str, list]
"""Name -> numbers, or words that must be equal."""


class Kind(NamedTuple):
    """A kind of tiny runs, the numbers of each by its name."""

    rooms: tuple[str, ...]
    """The rooms that decide the numbers, the one they belong to last."""
    tolerance: float
    """Largest difference of two numbers, relative to the largest of their list."""
    runs: Callable[[], Iterator[tuple[str, Numbers]]]


def _model(
    layout: str, mixer: str = MIXER, std: float = 0.1, mlp_kind: str = "swiglu", **more
) -> ModelConfig:
    """A model whose linear mixers have the heads of the reference implementation, with weights so large that
    each of them counts."""
    parts = {"attention": HEADS, "mlp": MLPConfig(mlp_kind, 32), "start": StartConfig(std)}
    return ModelConfig(layout, mixer, **parts | {"vocab_size": 48, "hidden_size": 128} | more)


def _teacher(task: TaskConfig) -> ModelConfig:
    vocab = text_vocab(task) + task.recall_vocab + len(MARKS)
    return _model("F" * DEPTH, std=0.3, vocab_size=vocab, hidden_size=16)


@contextmanager
def _tasks() -> Iterator[Callable[..., TaskConfig]]:
    """A function for tasks on a text of its own; fields that it is given replace those of a mixture of text,
    recall and the suite."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "text.txt"
        path.write_text("".join(f"{n} times {n} is {n * n}, they said.\n" for n in range(999)))
        mixture = {"recall_fraction": 0.5, "suite_fraction": 0.5, "recall_vocab": 32, "seq_len": 64}
        measured = {"pairs": (1, 2, 4), "eval_pairs": (2,), "eval_lengths": (64,), "eval_sequences": 4}
        yield lambda **given: TaskConfig(**{"corpus": str(path)} | mixture | measured | given)


@contextmanager
def _float64() -> Iterator[None]:
    """Parameters and what is computed from them are in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _descent(config: ModelConfig) -> Numbers:
    """Losses of gradient descent on one batch that a formula makes, in float64, and logits after it."""
    ids = torch.arange(2 * 80).square().mul(7).remainder(47).view(2, 80)
    losses = []
    with _float64():
        torch.manual_seed(0)
        model = HybridLM(config)
        for _ in range(STEPS):
            loss = model(ids, labels=ids.roll(-1, 1)).loss
            losses.append(loss.item())
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
        with torch.no_grad():
            logits = model(ids).logits
    return {"loss": losses, "logits": logits[1, -1, :6].tolist()}


def _mixers() -> Iterator[tuple[str, Numbers]]:
    for mixer in MIXERS:
        for conv in ("none", 4):
            yield f"{mixer}, conv {conv}", _descent(_model("LL", mixer, conv=conv))
        started = _model("LF", mixer, conv=4, start=StartConfig.mimetic(128))
        yield f"{mixer}, mimetic start", _descent(started)


def _stacks() -> Iterator[tuple[str, Numbers]]:
    for name, asked in STACKS.items():
        yield name, _descent(_model(**asked))


def _data() -> Iterator[tuple[str, Numbers]]:
    shares = {"text": (0.0, 0.0), "recall": (1.0, 0.0), "suite": (1.0, 1.0)}
    with _tasks() as task:
        for name, (recall, suite) in shares.items():
            data = TaskData(task(recall_fraction=recall, suite_fraction=suite), TRAIN, seed=0)
            measured = {
                "text": [data.val_text_batches(), data.last_word_batches()],
                "recall": [data.recall_eval_batches(64, 2)],
                "suite": [data.suite_eval_batches(each, 64) for each in TASKS],
            }[name]
            yield name, _checksums(data.train_batch, measured)
        lesson = LessonConfig(1 / STEPS, 16, (1, 2))
        data = TaskData(task(recall_fraction=1.0, suite_fraction=0.0, lesson=lesson), TRAIN, seed=0)
        yield "short sequences first", _checksums(data.train_batch, [])
        data = TaskData(task(), TRAIN, seed=0)
        measured = [PASSKEYS.eval_batches(data, 64)]
        yield "passkeys", _checksums(lambda index: PASSKEYS.train_batch(data, index), measured)


def _checksums(train_batch: Callable[[int], dict], measured: Iterable[Iterator[dict]]) -> Numbers:
    """Of the first two training batches, and of the first batch of everything that is measured."""
    first = [batch for batches in measured for batch in islice(batches, 1)]
    return {"train": [_checksum(train_batch(i)) for i in range(2)], "eval": [_checksum(b) for b in first]}


def _checksum(batch: dict[str, torch.Tensor]) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of all whole numbers of a batch."""
    digest = hashlib.sha256()
    for name in sorted(batch):
        values = batch[name].numpy()
        if values.dtype.kind != "f":
            digest.update(f"{name} {values.shape} ".encode() + values.astype(np.dtype("<i8")).tobytes())
    return digest.hexdigest()[:16]


def _training() -> Iterator[tuple[str, Numbers]]:
    with _tasks() as task:
        for name, spec in (("text", task(recall_fraction=0.0)), ("mixture", task())):
            model = _model("LF", vocab_size=_teacher(spec).vocab_size)
            result = fit(RunSpec(model, spec, TRAIN), progress=False)
            numbers = {part: [v] for part, v in result.metrics.items() if isinstance(v, float)}
            yield name, {"loss": [point["train_loss"] for point in result.curve]} | numbers


def _morphable(task: TaskConfig, branch: str, window: int | None = None) -> Morphable:
    """A random teacher that guesses among the values of recall and a few letters alone, so that a part of its
    guesses is right, and a random second mixer."""
    torch.manual_seed(0)
    teacher, text, half = HybridLM(_teacher(task)), text_vocab(task), task.recall_vocab // 2
    guessed = torch.zeros(teacher.config.vocab_size, 1)
    guessed[text + half : text + 2 * half] = 1
    guessed[list(b" aeimst")] = 1
    with torch.no_grad():
        teacher.lm_head.weight.mul_(guessed)
    return Morphable(teacher, branch, window)


def _learnt(module: LitModule, data: TaskData) -> list[float]:
    """The losses of a training."""
    curve = LearningCurve(lambda module: {})
    train(module, data, curve, progress=False)
    return [point["train_loss"] for point in curve.curve]


def _objectives() -> Iterator[tuple[str, Numbers]]:
    with _tasks() as task, _float64():
        stage, data = Stage(TRAIN, mixer_lr=2e-2), TaskData(task(), TRAIN, seed=0)
        for mixer in MIXERS:
            morphable = _morphable(task(), mixer)
            yield f"align, {mixer}", {"loss": _learnt(LitAlign(morphable, stage), data)}
            model = morphable.hybrid("LFL", drop_rope=True)
            yield f"distill, {mixer}", {"loss": _learnt(LitDistill(morphable.teacher, model, stage), data)}
        yield "finetune", {"loss": _learnt(LitFinetune(model, stage), data)}


def _masks() -> Iterator[tuple[str, Numbers]]:
    with _tasks() as task, _float64():
        run, stage = RunSpec(_teacher(task()), task(), TRAIN), Stage(TRAIN)
        window = AlignSpec(run, "window", window=WINDOW)
        for name, align, arm in (
            ("blocks", window, {}),
            ("heads", window, {"units": "head", "scope": "layer"}),
            ("blocks, full against linear", AlignSpec(run, MIXER), {}),
            ("scalar gates", window, {"method": "l1"}),
        ):
            spec = ConsaSpec(align, stage, stage, share=0.5, **arm)
            masked = masked_model(_morphable(task(), align.branch, align.window), spec)
            module = LEARNERS[spec.method](masked, spec)
            losses = _learnt(module, TaskData(task(), TRAIN, seed=0))
            yield name, {"loss": losses, "scores": module.scores().flatten().tolist()}


def _selectors() -> Iterator[tuple[str, Numbers]]:
    with _tasks() as task, _float64():
        settings = {"sequences": 16, "train": TRAIN, "stage": Stage(TRAIN)}
        problem = Problem(
            _morphable(task(), MIXER).requires_grad_(False).eval(),
            TaskData(task(), TRAIN, seed=0, asked="select"),
            PASSKEYS,
        )
        for name in selection.__all__:
            kind = getattr(selection, name)
            given = {f.name: settings[f.name] for f in fields(kind) if f.name in settings}
            found = kind(**given).select(problem, [1, 2])
            yield (
                name,
                {
                    "layouts": [str(layout) for layouts in found.layouts.values() for layout in layouts],
                    "scores": found.scores or [],
                    "loss": [point["train_loss"] for point in found.curve],
                    "tokens": [found.tokens],
                },
            )


KINDS = {
    "mixers": Kind(("models",), 1e-9, _mixers),
    "stacks": Kind(("models",), 1e-9, _stacks),
    "data": Kind(("data",), 0.0, _data),
    "training": Kind(RunSpec.rooms, 1e-3, _training),
    "objectives": Kind(HybridSpec.rooms, 1e-4, _objectives),
    "masks": Kind(ConsaSpec.rooms, 1e-4, _masks),
    "selectors": Kind(SelectSpec.rooms, 1e-4, _selectors),
}
"""Every kind of golden run by its name, the lower rooms first."""
