"""The typed parameters of a chapter: read from its `parameters` cell, parsed and checked.

That cell is the only place that names a chapter's parameters, their types, their defaults and their
help. A value that does not fit is refused before a kernel is started.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

TYPES: dict[str, type | tuple[type, type]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list[str]": (list, str),
    "list[int]": (list, int),
}
"""The types a parameter may have, as written in the `parameters` cell."""
SCALES = ("smoke", "laptop", "gpu", "paper")
"""Values of the parameter `scale`; not every chapter can run at all of them."""
_CONSTANTS = {"True": True, "False": False}


class Parameter(NamedTuple):
    """One line of the `parameters` cell, ``name: type = default  # help``."""

    name: str
    type: str
    default: Any
    help: str


def parameters(path: str | Path) -> list[Parameter]:
    """The parameters of a notebook, in the order of its `parameters` cell.

    Raises ``FileNotFoundError`` for a missing notebook, and ``ValueError`` naming the notebook and the
    parameter when there is not exactly one such cell, or a line of it has no type of `TYPES` or a
    default of another type.
    """
    import nbformat
    import papermill

    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("[!.]*.ipynb"))) or "none"
        raise FileNotFoundError(f"no notebook {path}; notebooks there: {known}")
    cells = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path} must have exactly one cell tagged 'parameters'; got {len(cells)}")
    inspected = papermill.inspect_notebook(path)
    found = []
    for line in ast.parse(cells[0].source).body:
        name = ast.unparse(line.target if isinstance(line, ast.AnnAssign) else line.targets[0])
        kind = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else None
        if kind not in TYPES or name not in inspected:
            raise ValueError(
                f"parameter {name} of {path} must be written `name: type = value  # help`, without a "
                f"second '=', with a type of {', '.join(TYPES)}; got {ast.unparse(line)!r}"
            )
        default = _typed(name, kind, ast.literal_eval(line.value))
        found.append(Parameter(name, kind, default, inspected[name]["help"]))
    return found


def parse_parameters(assignments: Sequence[str]) -> dict[str, Any]:
    """Values of a command line, such as ``["scale=laptop", "seeds=[0,1]", "lr=3e-4"]``.

    A value is read as JSON; quotes around words may be left out, so ``[pure,3:1]`` is a list of two
    strings. Raises ``ValueError`` naming an assignment that cannot be read or a name given twice.
    """
    import yaml

    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"a parameter is given as name=value; got {assignment!r}")
        if name in values:
            raise ValueError(f"parameter {name} is given more than once")
        try:
            values[name] = _value(text)
        except yaml.YAMLError as error:
            raise ValueError(f"the value of parameter {name} cannot be read; got {text!r}") from error
    return values


def check_parameters(path: str | Path, values: dict[str, Any]) -> dict[str, Any]:
    """The given values in the types that the notebook declares.

    Raises ``ValueError`` naming an unknown parameter with the allowed ones, a value of another type, or
    one that `check` refuses.
    """
    declared = {p.name: p for p in parameters(path)}
    for name in values:
        if name not in declared:
            raise ValueError(
                f"unknown parameter {name!r} of {Path(path).stem}; allowed: {', '.join(declared) or 'none'}"
            )
    values = {name: _typed(name, declared[name].type, value) for name, value in values.items()}
    check(**{name: value for name, value in values.items() if value != declared[name].default})
    return values


def check(**values) -> None:
    """Refuse values of the parameters that every chapter shares; parameters of other names pass.

    Raises ``ValueError`` for a `scale` that is not in `SCALES`, and for `seeds` that are not a list of
    different whole numbers from 0.
    """
    if "scale" in values and values["scale"] not in SCALES:
        raise ValueError(f"parameter scale must be one of {', '.join(SCALES)}; got {values['scale']!r}")
    seeds = values.get("seeds", [0])
    if not (
        isinstance(seeds, (list, tuple))
        and seeds
        and all(type(seed) is int and seed >= 0 for seed in seeds)
        and len(set(seeds)) == len(seeds)
    ):
        raise ValueError(f"parameter seeds must be a list of different whole numbers from 0; got {seeds!r}")


def _value(text: str):
    """JSON where it is JSON; else a list or word whose unquoted parts are read as JSON or kept."""
    import yaml

    try:
        return json.loads(text)
    except ValueError:
        # Its other loaders read 3:1 as a number of minutes.
        value = yaml.load(text, Loader=yaml.BaseLoader) if text else text
    if isinstance(value, list):
        return [_word(item) for item in value]
    return _word(value)


def _word(text):
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return _CONSTANTS.get(text, text) if isinstance(text, str) else text


def _typed(name: str, kind: str, value):
    wanted = TYPES[kind]
    if isinstance(wanted, tuple):
        fits = isinstance(value, (list, tuple)) and all(type(item) is wanted[1] for item in value)
        value = list(value) if fits else value
    elif wanted is float and type(value) is int:
        fits, value = True, float(value)
    else:
        fits = type(value) is wanted
    if not fits:
        raise ValueError(f"parameter {name} must be of type {kind}; got {value!r}")
    return value
