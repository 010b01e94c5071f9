"""The kinds of work whose results are stored: how each is described, and what carries it out."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from hybrid.config.specs import Spec


class Kind(NamedTuple):
    """One kind of stored work; both parts are named, and imported where they are needed."""

    spec: str
    """Class of its specs, as "module:name"."""
    trainer: str
    """``train(spec, *, checkpoint_dir, progress) -> Result``, as "module:name"."""


KINDS = {
    "run": Kind("hybrid.config:RunSpec", "hybrid.training.fit:fit"),
    "align": Kind("hybrid.conversion.specs:AlignSpec", "hybrid.conversion.distillation:align"),
    "hybrid": Kind("hybrid.conversion.specs:HybridSpec", "hybrid.conversion.distillation:convert"),
    "checkpoint": Kind(
        "hybrid.checkpoints.checkpoint:CheckpointSpec", "hybrid.conversion.distillation:measure"
    ),
    "select": Kind("hybrid.selection.base:SelectSpec", "hybrid.selection.run:select"),
    "bench": Kind("hybrid.bench:BenchSpec", "hybrid.bench:measure"),
    "consa": Kind("hybrid.selection.consa_spec:ConsaSpec", "hybrid.selection.consa:consa"),
}
"""`kind` of a spec -> what belongs to it."""


def read(values: dict) -> Spec:
    """A spec of any kind from its `to_dict`; one that names no kind is a run.

    Raises ``ValueError`` naming an unknown kind or field.
    """
    return _named(_kind(values.get("kind", "run")).spec).from_dict(values)


def trainer(kind: str) -> Callable[..., Any]:
    """What carries out a spec of that kind. Raises ``ValueError`` naming the allowed kinds."""
    return _named(_kind(kind).trainer)


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"unknown kind of work {name!r}; allowed: {', '.join(KINDS)}")
    return KINDS[name]


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
