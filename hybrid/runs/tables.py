"""Results as tables: every field of a spec, every metric and every piece of evidence is a column."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from hybrid.config import Layout, ModelConfig, RunSpec
from hybrid.config.specs import Spec
from hybrid.runs import versions
from hybrid.runs.store import Result

if TYPE_CHECKING:
    import pandas


def one_row_a_run(results: dict[Spec, Result | None]) -> pandas.DataFrame:
    """Specs, and of their results (None: there is none) everything that is one value."""
    import pandas

    rows = []
    for spec, result in results.items():
        groups = _about(spec, result)
        if result is not None:
            groups |= {"metrics": _scalars(result.metrics), "provenance": _scalars(result.provenance)}
        rows.append(_flatten(groups))
    return pandas.DataFrame(rows)


def one_row_an_entry(tables: list[tuple[Result, list[dict]]], name: str) -> pandas.DataFrame:
    """The entries of one table of each result, each beside the columns of its run."""
    import pandas

    rows = []
    for result, entries in tables:
        about = _about(result.spec, result)
        rows += [_flatten({name: entry, **about}) for entry in entries]
    return pandas.DataFrame(rows)


def moved(result: Result) -> list[str]:
    """Why a result is stale: what changed in each room whose version is not that of the result, such as
    "data 1 -> 2: longer passkeys"; empty where it is not."""
    return versions.moved(result.spec.rooms, result.provenance.get("rooms"))


def _about(spec: Spec, result: Result | None) -> dict[str, dict]:
    """The groups of columns that say which run a row belongs to; the family of a run is its linear mixer, or
    "full" where no block holds one.

    Full heads are text, a word a block, as ``"0,2 - -"``: tables are grouped by it, and drop what is None.
    """
    head = {
        "run_id": spec.run_id,
        "status": result.status if result else "missing",
        "message": result.message if result else "",
        "stale": bool(result) and bool(moved(result)),
    }
    if not isinstance(spec, RunSpec):
        return {"run": head | {"kind": spec.kind}, "spec": spec.columns()}
    layout = spec.model.layout
    head |= {
        "layout": str(layout),
        "full_blocks": len(layout.full),
        "depth": spec.model.depth,
        "mixer": spec.model.mixer_name,
        "conv": spec.model.conv,
        "full_heads": " ".join(",".join(map(str, heads)) or "-" for heads in _full_heads(spec.model)),
        "seed": spec.seed,
    }
    model = {name: value for name, value in _fields(spec.model).items() if name not in head}
    return {"run": head, "model": model, "task": _fields(spec.task), "train": _fields(spec.train)}


def _full_heads(model: ModelConfig) -> tuple:
    return (model.window and model.window.full_heads) or ()


def _flatten(groups: dict[str, dict]) -> dict:
    """All entries in one dict; a name that an earlier group holds carries its own group in front."""
    flat: dict = {}
    for group, values in groups.items():
        flat |= {f"{group}_{name}" if name in flat else name: value for name, value in values.items()}
    return flat


def _fields(part) -> dict:
    """Every field that is one value, those of parts inside with the name of their part in front."""
    found = {}
    for field in fields(part):
        value = getattr(part, field.name)
        inside = is_dataclass(value) and not isinstance(value, Layout)
        found |= (
            {f"{field.name}_{name}": item for name, item in _fields(value).items()}
            if inside
            else {field.name: value}
        )
    return found


def _scalars(values: dict) -> dict:
    return {name: value for name, value in values.items() if not isinstance(value, (list, dict))}
