"""What every spec of the store has: a name made from its content, and JSON that reads back."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from hybrid.config.layout import Layout
from hybrid.config.task import TaskConfig
from hybrid.config.train import TrainConfig

Part = TypeVar("Part")


@dataclass(frozen=True)
class Spec:
    """Base of the frozen dataclasses that describe work whose result is stored.

    Fields are numbers, strings, tuples, layouts, configs, run specs and other specs.
    """

    kind: ClassVar[str]
    """Name of the kind in stored files; see `hybrid.runs.trainers`."""
    rooms: ClassVar[tuple[str, ...]]
    """The rooms of `hybrid.runs.versions.ROOMS` whose code decides its results."""

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the kind and of all fields that are not at their
        default; a spec inside counts by its own `run_id`."""
        text = json.dumps([self.kind, _canonical(self)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """A few words for messages and tables."""
        about = self.columns()
        words = [str(about[name]) for name in ("selector", "branch", "layout") if name in about]
        return f"{' '.join([self.kind, *words])}, seed {about.get('seed', 0)}"

    @property
    def root(self) -> Spec:
        """The run that it starts from: the first one inside; a run is its own."""
        inside = (getattr(self, field.name) for field in fields(self))
        return next((value.root for value in inside if isinstance(value, Spec)), self)

    def inside(self, kind: type[Part]) -> Iterator[Part]:
        """All parts of a type, those of specs and alternatives inside too."""
        return _inside_of(self, kind)

    def passes(self) -> Iterator[tuple[TrainConfig, TaskConfig]]:
        """How and on what it trains: of its root, then of every stretch of training inside."""
        root = self.root
        yield root.train, root.task
        for stretch in self.inside(Stretch):
            yield stretch.train, stretch.task(root.task)

    def columns(self) -> dict:
        """What a table says of it: every field that is one value, alternatives by their kind and fields,
        and what the specs inside say, unless the name is taken."""
        found, inside = {}, {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Spec):
                found[field.name] = value.run_id
                inside |= value.columns()
            elif isinstance(value, Choice):
                found[field.name] = value.kind
                found |= {f"{field.name}_{name}": item for name, item in vars(value).items() if _single(item)}
            elif isinstance(value, Layout):
                found |= {field.name: str(value), "full_blocks": len(value.full), "depth": len(value)}
            elif _single(value):
                found[field.name] = value
        return {name: item for name, item in inside.items() if name not in found} | found

    def to_dict(self) -> dict:
        """Plain JSON types, every field present, and the kind; `hybrid.runs.trainers.read` reads it back."""
        return {"kind": self.kind} | {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """The inverse of `to_dict`. Raises ``ValueError`` naming an unknown or missing field."""
        return _fields(cls, {name: item for name, item in values.items() if name != "kind"})


class Choice(ABC):
    """Base of alternatives: a field of this type holds one of its subclasses, told apart by their `kind`."""

    kind: ClassVar[str]
    """Name of the alternative in stored files."""


class Stretch(ABC):
    """Base of what describes a further training of a root's model: by its `train`, on its `task`."""

    @abstractmethod
    def task(self, root: TaskConfig) -> TaskConfig:
        """What it trains on, made of the root's task."""


def _inside_of(value: Any, kind: type[Part]) -> Iterator[Part]:
    if isinstance(value, kind):
        yield value
    if is_dataclass(value):
        for field in fields(value):
            yield from _inside_of(getattr(value, field.name), kind)


def _canonical(value: Any) -> Any:
    changed = {f.name: getattr(value, f.name) for f in fields(value)}
    changed = {f.name: changed[f.name] for f in fields(value) if changed[f.name] != _default(f)}
    return _tag(value) | {name: _inside(item) for name, item in changed.items()}


def _single(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _tag(value: Any) -> dict:
    return {"kind": value.kind} if isinstance(value, Choice) else {}


def _inside(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.run_id
    if isinstance(value, Layout):
        return str(value)
    return _canonical(value) if is_dataclass(value) else value


def _default(field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def plain(value: Any) -> Any:
    """A spec or config as plain JSON types, every field present; `read` is the inverse."""
    if isinstance(value, Spec):
        return value.to_dict()
    if isinstance(value, Layout):
        return str(value)
    if is_dataclass(value):
        return _tag(value) | {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def read(kind: type[Part], values: Any) -> Part:
    """A spec or config from its `plain` form. Raises ``ValueError`` naming an unknown or missing field."""
    return _of_types((kind,), values)


def _of_types(kinds: tuple[type, ...], values: Any) -> Any:
    """A value of one of these types from its plain form; several specs are told apart by their `kind`, of
    which the first stands where none is named."""
    kind = kinds[0]
    if values is None or not (is_dataclass(kind) or issubclass(kind, Choice)):
        return tuple(_tuples(values)) if isinstance(values, list) else values
    if kind is Layout:
        return Layout.parse(values)
    if not isinstance(values, dict):
        raise ValueError(f"a {kind.__name__} is a JSON object; got {values!r}")
    if issubclass(kind, Spec):
        return _named(kinds, values.get("kind", kind.kind), "kind of work").from_dict(values)
    if issubclass(kind, Choice):
        kind = _named(kind.__subclasses__(), values.get("kind"), kind.__name__)
        values = {name: item for name, item in values.items() if name != "kind"}
    return _fields(kind, values)


def _named(kinds: Iterable[type], name: Any, what: str) -> Any:
    """The one of these types whose `kind` is that name."""
    found = {kind.kind: kind for kind in kinds}
    if name not in found:
        raise ValueError(f"unknown {what} {name!r}; allowed: {', '.join(sorted(found))}")
    return found[name]


def _fields(kind: type, values: dict) -> Any:
    types = _types(kind)
    for name in values:
        if name not in types:
            raise ValueError(f"unknown field {name!r} of {kind.__name__}; allowed: {', '.join(types)}")
    needed = [f.name for f in fields(kind) if _default(f) is MISSING and f.name not in values]
    if needed:
        raise ValueError(f"a {kind.__name__} needs {', '.join(needed)}")
    return kind(**{name: _of_types(types[name], item) for name, item in values.items()})


def _tuples(values: list) -> list:
    return [tuple(_tuples(item)) if isinstance(item, list) else item for item in values]


@cache
def _types(kind: type) -> dict[str, tuple[type, ...]]:
    """The types that may stand in every field, None left out."""
    hints = get_type_hints(kind)
    return {f.name: _members(hints[f.name]) for f in fields(kind)}


def _members(hint: Any) -> tuple[type, ...]:
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts if part is not type(None))
