"""The page of claims: every sentence, its rule and its verdict, from the stored runs of one scale."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from hybrid.book.status_page import table
from hybrid.claims import rules, verdicts
from hybrid.claims.grid import GRIDS, asked, kind, observed, read_from
from hybrid.claims.rules.contrasts import CLEAR, LEARNT, LEFT, SEEDS
from hybrid.config.files import home, write_atomically
from hybrid.data.suite import TASKS

PAGE = home() / "book" / "claims.md"
PAPERS = {
    "2507.06457": "A Systematic Analysis of Hybrid Linear Attention (arXiv:2507.06457)",
    "2606.30562": "FlashMorph: Morphing into Hybrid Attention Models (arXiv:2606.30562)",
    "2606.18056": "ConSA (arXiv:2606.18056)",
    verdicts.OWN: "Claims of this book",
}
"""Paper of a claim -> its heading, in the order of the page."""
_VERDICTS = (rules.SUPPORTED, rules.NOT_SUPPORTED, rules.INCONCLUSIVE)
_HEAD = f"""# Claims

Each sentence below is taken from a paper, in our words, or is this book's own, and then says so. Its rule
was written down before the runs were trained; what was changed since stands at the head of
`book/claims.yml`. This page is generated: it applies the rules to the stored runs of one scale.

A claim is *supported* where the whole 95 % interval lies on its side, *not supported* where the whole
interval lies on the other, and *inconclusive* otherwise, with the reason. Intervals are over paired
seeds: Student's t for means, and a bootstrap that agrees with it for what is computed from several
means. Nothing is decided from fewer than {SEEDS} seeds. A claim about several models at once allows for
their number. Claims do not allow for each other: of twenty sentences that are false, one may be called
supported. That holds if seeds vary normally. Where some find recall late and others early, three seeds
can miss the mean one time in four or more: read a verdict from three seeds as a first sign.

A task counts only where every seed of full attention has learnt it, to {LEARNT:g} at the training
length, and text only where every seed of it predicts the bytes better than a counter of the 1 to 6 bytes
before. Otherwise claims are inconclusive because the baseline is undertrained; they are not refuted.
And a mixer's layouts are compared, with each other or with full attention, only where one has left
chance: {LEFT:g} times chance, at most half-way from chance to 1, and {CLEAR:g} above it. Where mixers
are compared with each other it is enough that one of them has. A sentence that our tasks leave no room
for is inconclusive too.

Where groups of mixers are compared, their mean is compared, and every pair of mixers is shown beside it.
A pair whose whole interval lies on the other side makes a mean that would be supported *not supported*.
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
        parts.append(f"## {PAPERS[paper]}\n")
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
    """How many of the runs that claims read there are, and what full attention learnt, as Markdown."""
    claims = [claim for claim in verdicts.registry() if scale in claim.scales and claim.rule.reads == "grid"]
    if not claims:
        return "No claim about runs of a grid is decided at this scale.\n"
    runs = observed(asked([claim.rule for claim in claims], scale))
    kinds = runs["metric"].map(kind)
    runs = runs.assign(kind=kinds, grid=[read_from(scale, name) for name in kinds])
    stored = []
    for (grid, arm), seen in runs.groupby(["grid", "arm"]):
        read = ", ".join(name for name in GRIDS if (seen["kind"] == name).any())
        seen = seen.drop_duplicates("run_id")
        done = (seen["status"] == "done").sum()
        stored.append([grid, arm, read, f"{done} of {len(seen)}", seen["stale"].sum()])
    learnt = []
    for metric in ("recall", "loss_bits_per_byte", *dict.fromkeys(task.group for task in TASKS.values())):
        seen = runs[runs["metric"] == metric]
        for arm, tasks in seen.drop_duplicates("arm")[["arm", "tasks"]].itertuples(index=False):
            verdict = rules.build("learnt", {"metric": metric, "arm": arm})(runs)
            learnt.append([metric, arm, tasks, verdict.verdict, verdict.evidence or verdict.reason])
    return "\n".join(
        [
            table(["Grid", "Arm", "Read for", "Runs stored", "Of older code"], stored),
            "### Did full attention learn the tasks?\n",
            table(["Text, task or group", "Arm", "Tasks learnt", "Learnt", "Evidence"], learnt),
        ]
    )
