"""Claims, of papers and our own: read from `book/claims.yml`, decided from runs by rules fixed beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.claims import rules
from hybrid.claims.rules.contrasts import NAMES
from hybrid.config.files import home

if TYPE_CHECKING:
    import pandas

    from hybrid.claims.rules.base import Rule

FILE = home() / "book" / "claims.yml"
COLUMNS = (
    "id",
    "paper",
    "section",
    "claim",
    "rule",
    "verdict",
    "evidence",
    "reason",
    "scale",
    "n",
    "published",
)

WORDS = NAMES | {
    "suite": "the mean of the suite",
    "recall": "multi-query associative recall",
    "singlevalue": "finding one needle (single key)",
    "multikey": "finding one needle among others (multi-key)",
    "qa": "answering questions over facts",
}
"""What readers know a value of `each` by."""


OWN = "this book"
"""In place of a paper: a claim that is the book's own."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, or of this book, with the rule that decides it."""

    id: str
    """Name of the claim, in lower case with hyphens."""
    paper: str
    """arXiv number, or `OWN`."""
    version: str
    """Version of the paper that `section` and `published` refer to; "-" where it is `OWN`."""
    section: str
    """Section in which the sentence stands."""
    sentence: str
    """What is claimed, in our words."""
    published: str
    """Where the paper shows it, and what its own numbers say."""
    rule: Rule
    """What decides it."""
    why: str
    """Why this rule and these thresholds; written before any result was seen."""
    scales: tuple[str, ...]
    """Scales at which it is decided."""


def registry(path: str | Path = FILE) -> list[Claim]:
    """All claims, in the order of the file.

    An entry with a field ``each`` (name -> list of values) stands for one claim a value: ``{name}`` in its
    strings becomes the value, and ``{Name}`` the name that readers know it by.
    Raises ``ValueError`` naming the claim and its unknown, missing, repeated or impossible part.
    """
    import yaml

    found: dict[str, Claim] = {}
    for number, entry in enumerate(yaml.safe_load(Path(path).read_text(encoding="utf-8")) or [], start=1):
        if not isinstance(entry, dict):
            raise ValueError(f"{Path(path).name}, entry {number}, is no claim: {entry!r}")
        for given in _each(entry):
            claim = _claim(given, f"claim {given.get('id', f'number {number}')!r}")
            if claim.id in found:
                raise ValueError(f"claim {claim.id!r} stands in {Path(path).name} more than once")
            found[claim.id] = claim
    return list(found.values())


def verdicts(
    scale: str = "laptop",
    ids: Sequence[str] | None = None,
    seeds: Sequence[int] = (),
    paper: str | None = None,
) -> pandas.DataFrame:
    """Decide claims from the runs stored at a scale; nothing is trained.

    Args:
        scale: whose grids are read, those that hold the metrics of the claims.
        ids: which claims; None is all.
        seeds: which seeds of the grids; empty are each grid's own.
        paper: arXiv number of the paper whose claims are decided, or `OWN`; None is all.

    Returns:
        One row a claim with the columns `COLUMNS`: its id, paper, section and sentence, the rule in words,
        the verdict ("supported", "not supported" or "inconclusive"), the evidence with its interval and n,
        the reason where it is inconclusive or something is missing, the scale, the number of paired seeds
        (0 where nothing was compared or no run is needed) and where and what the paper prints.

    Raises ``ValueError`` naming an unknown scale, id or paper.
    """
    import pandas

    from hybrid.studies import scales

    scales.scale(scale)
    claims = {claim.id: claim for claim in registry()}
    for name in ids or ():
        if name not in claims:
            raise ValueError(f"unknown claim {name!r}; allowed: {', '.join(claims)}")
    papers = list(dict.fromkeys(claim.paper for claim in claims.values()))
    if paper not in (None, *papers):
        raise ValueError(f"no claim is of paper {paper!r}; allowed: {', '.join(papers)}")
    chosen = [claims[name] for name in (claims if ids is None else ids)]
    chosen = [claim for claim in chosen if paper in (None, claim.paper)]
    seen = _seen([claim.rule for claim in chosen if scale in claim.scales], scale, tuple(seeds))
    rows = []
    for claim in chosen:
        verdict = rules.Verdict(rules.INCONCLUSIVE, "", f"decided at {', '.join(claim.scales)} only")
        if scale in claim.scales:
            runs = seen[claim.rule.reads]
            verdict = claim.rule(runs)
            if claim.rule.reads == "grid":
                verdict = _with_tasks(verdict, claim.rule, runs)
        shown = (verdict.verdict, verdict.evidence, verdict.reason, scale, verdict.n, claim.published)
        rows.append((claim.id, claim.paper, claim.section, claim.sentence, claim.rule.words(), *shown))
    return pandas.DataFrame(rows, columns=COLUMNS)


def table(verdicts: Mapping[str, rules.Verdict]) -> pandas.DataFrame:
    """Claim, verdict, evidence and reason as a table for a page; the keys are the sentences."""
    import pandas

    rows = [(sentence, v.verdict, v.evidence, v.reason) for sentence, v in verdicts.items()]
    return pandas.DataFrame(rows, columns=["Claim", "Verdict", "Evidence", "Reason"])


def _seen(needed: Sequence[Rule], scale: str, seeds: Sequence[int]) -> dict[str, pandas.DataFrame | None]:
    """What the rules read, by the name that they say; seeds are those of the grids."""
    seen, names = {"nothing": None}, {rule.reads for rule in needed}
    if "grid" in names:
        from hybrid.claims.grid import asked, observed

        seen["grid"] = observed(asked([rule for rule in needed if rule.reads == "grid"], scale, seeds))
    if "selection" in names:
        from hybrid.claims.selection import observed as chosen

        seen["selection"] = chosen(scale)
    return seen


def _with_tasks(verdict: rules.Verdict, rule: Rule, runs: pandas.DataFrame) -> rules.Verdict:
    """The verdict; its evidence says how many tasks of the suite count, where not all do."""
    if not verdict.evidence:
        return verdict
    told = runs[runs["metric"].isin(rule.metrics())].drop_duplicates("metric")
    some = [f"{m} over {t} tasks" for m, t in zip(told["metric"], told["tasks"], strict=True) if t]
    return replace(verdict, evidence="; ".join([verdict.evidence, *some]))


def _each(entry: Mapping) -> Iterator[dict]:
    """The claims an entry stands for: one for every combination of the values of its `each`."""
    entry = dict(entry)
    each = entry.pop("each", {})
    if not isinstance(each, dict) or not all(isinstance(values, list) for values in each.values()):
        raise ValueError(f"claim {entry.get('id')!r}: each must map names to lists; got {each!r}")
    for values in product(*each.values()):
        words = {}
        for name, value in zip(each, values, strict=True):
            words |= {f"{{{name}}}": value, f"{{{name.capitalize()}}}": WORDS.get(value, value)}
        yield _replaced(entry, words)


def _replaced(part, words: Mapping[str, str]):
    """The same structure with placeholders replaced in every string."""
    match part:
        case str():
            for placeholder, word in words.items():
                part = part.replace(placeholder, word)
            return part
        case dict():
            return {key: _replaced(value, words) for key, value in part.items()}
        case list():
            return [_replaced(value, words) for value in part]
    return part


def _claim(entry: Mapping, where: str) -> Claim:
    """A claim from the fields of its entry, each of them checked."""
    from hybrid.studies.scales import SCALES

    known = [field.name for field in fields(Claim)]
    for name in entry:
        if name not in known:
            raise ValueError(f"{where} has an unknown field {name!r}; allowed: {', '.join(known)}, each")
    for name in known:
        if not entry.get(name):
            raise ValueError(f"{where} needs {name!r}")
    given = dict(entry["rule"]) if isinstance(entry["rule"], dict) else {}
    try:
        rule = rules.build(given.pop("name", entry["rule"]), given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
    for scale in entry["scales"]:
        if scale not in SCALES:
            raise ValueError(f"{where}: unknown scale {scale!r}; allowed: {', '.join(SCALES)}")
    for name in ("paper", "version", "section", "sentence", "published", "why"):
        if not isinstance(entry[name], str):
            raise ValueError(f"{where}: {name} must be text in quotes; got {entry[name]!r}")
    paper, version = entry["paper"], entry["version"]
    if paper != OWN and not re.fullmatch(r"\d{4}\.\d{5}", paper):
        raise ValueError(f"{where}: paper must be an arXiv number (2507.06457) or {OWN!r}; got {paper!r}")
    if (paper == OWN) != (version == "-"):
        raise ValueError(f"{where}: version '-' belongs to paper {OWN!r}; got {version!r} and {paper!r}")
    # Names of metrics and mixers are filled in, and a sentence may begin with one.
    sentence = entry["sentence"][:1].upper() + entry["sentence"][1:]
    return Claim(**{**entry, "sentence": sentence, "rule": rule, "scales": tuple(entry["scales"])})
