"""The rules by which claims are decided, fixed before the runs: a table of observations in, a verdict out.

Every rule is a frozen dataclass whose fields are its parameters. Called with the observations that
`contrasts` describes, it returns a `Verdict`; it reads and trains nothing. Intervals are 95 % intervals
over paired seeds, and `verdicts.together` says how several comparisons are counted.
"""

from __future__ import annotations

from dataclasses import MISSING, fields

from hybrid.claims.rules.choices import Choices
from hybrid.claims.rules.contrasts import Cells
from hybrid.claims.rules.exact import Counted
from hybrid.claims.rules.layouts import Flat, PartOfGain, Rises, Saturates, Steady
from hybrid.claims.rules.means import AgainstFull, Difference, Interaction, Learnt, NearChance, RankUnrelated
from hybrid.claims.rules.verdicts import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Verdict, decide

RULES = {
    rule.name: rule
    for rule in (
        Difference,
        Interaction,
        AgainstFull,
        NearChance,
        Learnt,
        RankUnrelated,
        Rises,
        Steady,
        Flat,
        Saturates,
        PartOfGain,
        Counted,
        Choices,
    )
}
"""Name in `book/claims.yml` -> rule."""

__all__ = ["INCONCLUSIVE", "NOT_SUPPORTED", "RULES", "SUPPORTED", "Verdict", "build", "decide"]


def build(name: str, parameters: dict):
    """A rule with its parameters, given as plain mappings and lists.

    Raises ``ValueError`` naming an unknown rule, an unknown or missing parameter, or a wrong value.
    """
    if name not in RULES:
        raise ValueError(f"unknown rule {name!r}; allowed: {', '.join(RULES)}")
    return _filled(RULES[name], parameters, f"rule {name}")


def _filled(kind: type, parameters: dict, where: str):
    """A dataclass from a mapping; fields that are `Cells` may be mappings themselves."""
    known = {field.name: field for field in fields(kind)}
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(f"unknown parameter {parameter!r} of {where}; allowed: {', '.join(known)}")
    for field in known.values():
        if field.default is MISSING and field.name not in parameters:
            raise ValueError(f"{where} needs {field.name!r}")
    given = dict(parameters)
    for key, value in given.items():
        if known[key].type == "Cells":
            given[key] = _filled(Cells, value, f"{key!r} of {where}")
        elif known[key].type == "tuple[Cells, Cells]":
            given[key] = tuple(_filled(Cells, part, f"{key!r} of {where}") for part in value)
    return kind(**given)
