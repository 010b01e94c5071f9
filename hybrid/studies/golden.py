"""Golden trajectories: first losses and a few outputs of tiny runs, stored, to see when code changes numbers.

Every kind of run belongs to a room with a version (`hybrid.runs.versions`), and there is one small file a
kind in ``tests/golden``. Models, data and gates are far too small to learn anything; all that is asked of
their numbers is that they stay. Stored are those of a CPU: in float64, in which processors with other vector
instructions agree to many digits, but for a training as it is by default, in float32.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

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
from hybrid.config.files import home, write_atomically
from hybrid.conversion.distillation import LitAlign, LitDistill, LitFinetune
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec, HybridSpec, Stage
from hybrid.data.corpus import text_vocab
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.data.suite import MARKS, TASKS
from hybrid.models.hybrid_lm import HybridLM
from hybrid.runs import versions
from hybrid.runs.versions import moved
from hybrid.selection.base import Problem, SelectSpec
from hybrid.selection.consa import LEARNERS, masked_model
from hybrid.selection.consa_spec import ConsaSpec
from hybrid.training.fit import fit
from hybrid.training.loop import LearningCurve, LitModule, train

STEPS = 5
DIGITS = 12
"""Significant digits that are stored: more would differ from machine to machine."""
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


def folder() -> Path:
    """Where the stored numbers lie, one file a kind."""
    return home() / "tests" / "golden"


class Row(NamedTuple):
    """One run beside the stored one."""

    kind: str
    run: str
    outcome: str
    """ "equal", "changed", or where only one of the two is there "not stored" or "made no more"."""
    difference: float
    """The largest one, relative to the largest number of its list; infinite where they cannot be compared."""
    tolerance: float


@dataclass(frozen=True)
class Report:
    """What `check` or `write` found; as a string, the table and what follows from it."""

    rows: list[Row]
    advice: list[str]
    """A sentence for each kind whose numbers are not the stored ones."""

    @property
    def changed(self) -> bool:
        """Whether something must be done."""
        return bool(self.advice)

    def __str__(self) -> str:
        import pandas

        table = pandas.DataFrame(self.rows, columns=Row._fields)
        for name in ("difference", "tolerance"):
            table[name] = table[name].map("{:.0e}".format)
        return "\n".join([table.to_string(index=False), *self.advice])


def check(kinds: Sequence[str] = ()) -> Report:
    """Compare today's numbers with the stored ones; no kinds are all.

    Raises ``ValueError`` for an unknown kind or a file that holds no golden numbers, and
    ``FileNotFoundError`` where there is none.
    """
    names = _known(kinds)
    stored = {name: _stored(name) for name in names}
    rows = [row for name in names for row in _compared(name, stored[name]["runs"], _made(name))]
    return Report(rows, _advice(rows, {name: file["rooms"] for name, file in stored.items()}))


def write(kinds: Sequence[str] = ()) -> Report:
    """Store today's numbers, in place of stored ones whose version has moved since; no kinds are all.

    Raises ``ValueError`` for an unknown kind, a file that holds no golden numbers, or numbers that changed
    while no version of their rooms has moved. Then no file is written.
    """
    names = _known(kinds)
    stored = {name: _stored(name) for name in names if _path(name).exists()}
    made = {name: _made(name) for name in names}
    held = {
        name: file["rooms"] for name, file in stored.items() if not moved(KINDS[name].rooms, file["rooms"])
    }
    rows = [row for name in held for row in _compared(name, stored[name]["runs"], made[name])]
    if refused := _advice([row for row in rows if row.outcome == "changed"], held):
        raise ValueError(
            "\n".join(
                ["nothing is written (where the runs themselves are others, delete the file):", *refused]
            )
        )
    for name, runs in made.items():
        entries = [f"  {json.dumps(run)}: {json.dumps(numbers)}" for run, numbers in runs.items()]
        rooms = json.dumps(versions.today(KINDS[name].rooms))
        text = f'{{\n "rooms": {rooms},\n "runs": {{\n' + ",\n".join(entries) + "\n }\n}\n"
        write_atomically(_path(name), text)
    return Report([row for name in names for row in _compared(name, made[name], made[name])], [])


def _known(kinds: Sequence[str]) -> list[str]:
    for name in kinds:
        if name not in KINDS:
            raise ValueError(f"unknown kind of golden run {name!r}; allowed: {', '.join(KINDS)}")
    return [name for name in KINDS if name in kinds or not kinds]


def _path(name: str) -> Path:
    return folder() / f"{name}.json"


def _stored(name: str) -> dict[str, dict]:
    path, command = _path(name), f"`python -m hybrid golden {name} --write`"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for part in ("rooms", "runs"):
            if not isinstance(found, dict) or not isinstance(found.get(part), dict):
                raise ValueError(f"it needs {part!r}, a JSON object")
    except FileNotFoundError:
        raise FileNotFoundError(f"no golden numbers in {path}; {command} stores today's") from None
    except ValueError as error:
        raise ValueError(
            f"{path} holds no golden numbers: {error}; take it from git again, or delete it and {command}"
        ) from None
    return found


def _made(name: str) -> dict[str, Numbers]:
    runs = {}
    for run, numbers in KINDS[name].runs():
        runs[run] = {part: [_rounded(value) for value in values] for part, values in numbers.items()}
    return runs


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _compared(name: str, stored: dict[str, Any], made: dict[str, Numbers]) -> Iterator[Row]:
    tolerance = KINDS[name].tolerance
    for run in stored | made:
        if run not in stored or run not in made:
            outcome, largest = "not stored" if run in made else "made no more", math.inf
        else:
            largest = difference(stored[run], made[run])
            outcome = "equal" if largest <= tolerance else "changed"
        yield Row(name, run, outcome, largest, tolerance)


def difference(stored: object, made: Numbers) -> float:
    """The largest difference of two floats, relative to the largest of their list; infinite where names,
    words, whole numbers or lengths differ, or a float is not finite.

    >>> difference({"loss": [4.0, 2.0]}, {"loss": [4.0, 1.0]})
    0.25
    >>> difference({"layout": ["FLL"]}, {"layout": ["LFL"]})
    inf
    """
    if stored == made:
        return 0.0
    if not isinstance(stored, dict) or stored.keys() != made.keys():
        return math.inf
    return max(_distance(stored[part], made[part]) for part in made)


def _distance(stored: object, made: list) -> float:
    if stored == made:
        return 0.0
    numbers = isinstance(stored, list) and all(type(value) is float for value in [*stored, *made])
    if not numbers or len(stored) != len(made) or not all(map(math.isfinite, [*stored, *made])):
        return math.inf
    return max(abs(a - b) for a, b in zip(stored, made, strict=True)) / max(map(abs, [*stored, *made]))


def _advice(rows: Iterable[Row], rooms: dict[str, dict]) -> list[str]:
    """What to do about the rows that are not equal. The room to blame is the lowest of those that the numbers
    rest on and whose own numbers changed."""
    rows = [row for row in rows if row.outcome != "equal"]
    at_fault = {KINDS[row.kind].rooms[-1] for row in rows if row.outcome == "changed"}
    found = []
    for name in dict.fromkeys([*(row.kind for row in rows), *rooms]):
        runs = {row.run: row.outcome for row in rows if row.kind == name}
        renew = f"`python -m hybrid golden {name} --write`"
        if since := moved(KINDS[name].rooms, rooms[name]):
            found.append(f"the stored numbers of {name} are of other versions ({'; '.join(since)}): {renew}")
            continue
        if changed := [run for run, outcome in runs.items() if outcome == "changed"]:
            room = next(room for room in KINDS[name].rooms if room in at_fault)
            which = f"{name} ({'; '.join(changed)})"
            found.append(
                f"numbers of {which} changed: mend it, or raise VERSION in {room} and say why, then {renew}"
            )
        if others := [f"{run} is {outcome}" for run, outcome in runs.items() if outcome != "changed"]:
            found.append(f"of {name}, {'; '.join(others)}: {renew}")
    return found


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
