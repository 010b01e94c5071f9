"""The page of claims: every sentence, its rule and its verdict, from the stored runs of one scale."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from hybrid.book.status_page import table
from hybrid.claims import rules, verdicts
from hybrid.claims.grid import observed
from hybrid.claims.rules.contrasts import CLEAR, LEARNT, LEFT, SEEDS
from hybrid.config.files import home, write_atomically
from hybrid.data.suite import TASKS
from hybrid.studies import grid

PAGE = home() / "book" / "claims.md"
PAPERS = {
    "2507.06457": "A Systematic Analysis of Hybrid Linear Attention",
    "2606.30562": "FlashMorph: Morphing into Hybrid Attention Models",
    "2606.18056": "ConSA",
}
"""arXiv number -> the name of the paper, in the order of the page."""
_VERDICTS = (rules.SUPPORTED, rules.NOT_SUPPORTED, rules.INCONCLUSIVE)
_HEAD = f"""# Claims

Each sentence below is taken from a paper, in our words. Its rule was written down before the runs were
trained; what was changed since stands at the head of `book/claims.yml`. This page is generated: it
applies the rules to the stored runs of one scale.

A claim is *supported* where the whole 95 % interval lies on its side, *not supported* where the whole
interval lies on the other, and *inconclusive* otherwise, with the reason. Intervals are over paired
seeds: Student's t for means, and a bootstrap that agrees with it for what is computed from several
means. Nothing is decided from fewer than {SEEDS} seeds. A claim about several models at once allows for
their number. Claims do not allow for each other: of twenty sentences that are false, one may be called
supported. That holds if seeds vary normally. Where some find recall late and others early, three seeds
can miss the mean one time in four or more: read a verdict from three seeds as a first sign.

A task counts only where every seed of full attention has learnt it, to {LEARNT:g} at the training
length. Otherwise its claims are inconclusive because the baseline is undertrained; they are not refuted.
And a mixer's layouts are compared, with each other or with full attention, only where one has left
chance: {LEFT:g} times chance, at most half-way from chance to 1, and {CLEAR:g} above it. Where mixers
are compared with each other it is enough that one of them has. A sentence that our tasks leave no room
for is inconclusive too.
"""


def write(path: str | Path = PAGE, scale: str = "laptop") -> Path:
    """Decide every claim at a scale and write the page, in MyST Markdown; returns its path.

    Raises ``ValueError`` naming an unknown scale.
    """
    found = verdicts.verdicts(scale)
    order = found["paper"].map(list(PAPERS).index)
    found = found.assign(place=found["section"].str.split(", ").str[-1], order=order)
    found = found.sort_values(["order", "place"], kind="stable")
    counts = found["verdict"].value_counts()
    parts = [
        _HEAD,
        f"## At scale {scale}\n",
        table(["Verdict", "Claims"], [[verdict, counts.get(verdict, 0)] for verdict in _VERDICTS]),
        _state(scale),
    ]
    for paper, mine in found.groupby("paper", sort=False):
        parts.append(f"## {PAPERS[paper]} (arXiv:{paper})\n")
        for section, rows in groupby(mine.itertuples(), key=lambda row: row.place):
            header = ["Claim", "Verdict", "Evidence", "Why not more", "The paper prints"]
            lines = [[r.claim, r.verdict, r.evidence, r.reason, r.published] for r in rows]
            name = f"Section {section}" if section[0].isdigit() else section.capitalize()
            parts += [f"### {name}\n", table(header, lines)]
    parts.append("## The rules\n")
    registry = {claim.id: claim for claim in verdicts.registry()}
    lines = [[f"`{r.id}`", r.claim, r.rule, registry[r.id].why] for r in found.itertuples()]
    parts.append(table(["Name", "Claim", "Rule", "Why so"], lines))
    write_atomically(Path(path), "\n".join(parts))
    return Path(path)


def _state(scale: str) -> str:
    """How many runs there are, and of what full attention learnt, as Markdown."""
    runs = observed({arm: grid.grid(scale, arm=arm) for arm in grid.ARMS})
    parts = []
    for arm, seen in runs.drop_duplicates(["arm", "run_id"]).groupby("arm"):
        done, stale = (seen["status"] == "done").sum(), seen["stale"].sum()
        parts.append(
            f"{arm.capitalize()} arm: {done} of {len(seen)} runs are stored, {stale} of them by older code. "
        )
    parts.append("\n\n### Did full attention learn the tasks?\n\n")
    rows = []
    for metric in ("recall", *dict.fromkeys(task.group for task in TASKS.values())):
        for arm in grid.ARMS:
            verdict = rules.build("learnt", {"metric": metric, "arm": arm})(runs)
            here = runs[runs["metric"] == metric]["tasks"].iloc[0]
            rows.append([metric, arm, here, verdict.verdict, verdict.evidence or verdict.reason])
    return "".join(parts) + table(["Task or group", "Arm", "Tasks learnt", "Learnt", "Evidence"], rows)
