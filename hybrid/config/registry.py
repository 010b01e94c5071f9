"""Tables of what a config can name, filled by the files in which these parts are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules


class Registry(Mapping[str, type]):
    """Names and classes of one kind of part, such as the mixers.

    The files of `home` fill it. They are imported at the first look at the table, not before: they bring
    PyTorch along, and the names of a config's parts stand below them in the house.

    Args:
        what: the kind of part, as error messages call it.
        home: a module, or a package of which every module may register classes.
    """

    def __init__(self, what: str, home: str) -> None:
        self.what, self.home = what, home
        self.classes: dict[str, type] = {}
        self.loaded = False

    def register(self, name: str) -> Callable[[type], type]:
        """A decorator that enters a class under `name`, which it then carries as its attribute ``name``.

        Raises ``ValueError`` for a name that another class has.
        """

        def enter(cls: type) -> type:
            there = self.classes.get(name)
            if there is not None and there.__qualname__ != cls.__qualname__:
                raise ValueError(f"the {self.what} {name!r} is registered already, as {there.__qualname__}")
            cls.name = name
            self.classes[name] = cls
            return cls

        return enter

    def check(self, name: str) -> None:
        """Raises ``ValueError`` naming the allowed ones where there is no such part."""
        if name not in self:
            raise ValueError(f"unknown {self.what} {name!r}; allowed: {', '.join(self) or 'none'}")

    def _load(self) -> dict[str, type]:
        if not self.loaded:
            home = import_module(self.home)
            for module in iter_modules(getattr(home, "__path__", ())):
                import_module(f"{self.home}.{module.name}")
            self.loaded = True
        return self.classes

    def __getitem__(self, name: str) -> type:
        return self._load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())


MIXERS = Registry("mixer", "hybrid.mixers")
"""The linear mixers, `hybrid.mixers.base.LinearMixer`, by the name that a config gives them."""
MLPS = Registry("kind of MLP", "hybrid.models.mlps")
"""Dense MLPs, `hybrid.models.mlps`, by name."""
EXPERTS = Registry("kind of experts", "hybrid.models.mlps")
"""Layers of experts, `hybrid.models.mlps`, by name."""
