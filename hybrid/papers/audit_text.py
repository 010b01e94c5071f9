"""Sentences of the main paper beside its own tables (2507.06457; table numbers of version 1).

Every sentence is read twice: as it stands, and in the kindest way that is consistent in itself. The
tables decide both readings where they can. The sentences, in our words, are those of
`book/published/claims_vs_tables.csv`.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

import pandas as pd

from hybrid.papers.audit import RATIOS, cache_factor, cells, row_averages
from hybrid.papers.published import paper_mixers, table

RECALLED = ("deltanet", "gated_deltanet", "gla", "hgrn2")
"""The mixers whose recall the paper prints."""
ROW = ("pure", *RATIOS)
"""The columns of Tables 4 and 5 in the order of their number of full blocks."""


class Reading(NamedTuple):
    """What the tables make of a sentence."""

    holds: bool | None
    """As it stands; None where no printed number decides it."""
    kindly: bool | None
    """In the kindest reading; None where there is no other reading that a number decides."""
    evidence: str
    """The printed or recomputed numbers behind both."""
    reading: str = ""
    """The kindest reading, in words."""

    @property
    def verdict(self) -> str:
        """ "agrees", "agrees in one reading", "differs" or "cannot be checked"."""
        if self.holds or self.kindly:
            return "agrees" if self.holds else "agrees in one reading"
        return "cannot be checked" if self.holds is None else "differs"


def sentences() -> pd.DataFrame:
    """One row a sentence: `id`, `section`, `sentence`, `table`, `verdict`, `reading` and `evidence`."""
    rows = table("claims_vs_tables").rename(columns={"claim_paraphrased": "sentence"})
    readings = {**_language_model(), **_recall(), **_cost(), **_setup()}
    missing = set(rows["id"]) ^ set(readings)
    if missing:
        raise ValueError(f"sentences and readings do not pair: {', '.join(sorted(missing))}")
    rows = rows[["id", "section", "sentence", "paper", "version", "table", "table_in_v2"]]
    found = [readings[name] for name in rows["id"]]
    return rows.assign(
        verdict=[r.verdict for r in found],
        reading=[r.reading for r in found],
        evidence=[r.evidence for r in found],
    )


def _language_model() -> dict[str, Reading]:
    second, third, fourth = cells(2), cells(3), cells(4)
    leads = [
        second["hgrn2", "6:1"] - second[key] for key in (("transformer", "full"), ("gated_deltanet", "pure"))
    ]
    pure = sorted(((fourth[m, "pure"], m) for m in paper_mixers()), reverse=True)[:2]
    both = ", ".join(f"{name} {value}" for value, name in pure)
    here, there = (
        [Decimal("0.55") <= v <= Decimal("0.57") for v in values]
        for values in (fourth.values(), third.values())
    )
    spread = {m: _spread(fourth[m, r] for r in ROW) for m in paper_mixers()}
    hybrids = [_spread(fourth[m, r] for r in RATIOS) for m in paper_mixers()]
    mean = [printed for printed, _ in row_averages(4).values()]
    moved = row_averages(4)["3:1"][0] - row_averages(4)["24:1"][0]
    two = {m: (second[m, r] + third[m, r]) / 2 for m, r in second if (m, r) in third}
    above = [m for m in two if two[m] > two["transformer"]]
    return {
        "hgrn2_leads_340m": Reading(
            set(leads) == {Decimal("0.012")},
            min(leads) >= Decimal("0.012"),
            f"Transformer {_points(leads[0])}, pure Gated DeltaNet {_points(leads[1])} points",
            "by at least 1.2 points",
        ),
        "gdn_best_standalone_340m": Reading(
            None, None, f"Table 2 prints one pure row; the mean of both scales in Table 4 leads with {both}"
        ),
        "gdn_best_standalone_1p3b": Reading(
            None, None, f"Table 3 prints no pure row; the mean of both scales in Table 4 leads with {both}"
        ),
        "lm_cluster": Reading(
            sum(here) > len(here) / 2,
            sum(there) > len(there) / 2,
            f"inside 0.55 to 0.57: {sum(here)} of {len(here)} cells of Table 4 "
            f"({_range(fourth.values())}), {sum(there)} of {len(there)} rows of Table 3 "
            f"({_range(third.values())})",
            "the figure shows the 1.3B models alone (version 2 calls Table 4 its tabular form)",
        ),
        "lm_flat": Reading(
            max(spread.values()) < Decimal("0.01"),
            _spread(mean) < Decimal("0.01"),
            f"the average moves {_points(_spread(mean))} points; each mixer "
            + ", ".join(f"{m} {_points(s)}" for m, s in spread.items())
            + f"; without the pure models {sum(h < Decimal('0.01') for h in hybrids)} of {len(hybrids)} "
            f"move less than 1; in percent the average moves {_points(_spread(mean) / min(mean))}",
            "the average over mixers, and points of accuracy for percent",
        ),
        "lm_loss_shift": Reading(
            None,
            abs(moved) < Decimal("0.01"),
            f"no loss is printed; the average accuracy of Table 4 moves {_points(moved)} points",
            "the missing unit is a point of accuracy",
        ),
        "transformer_on_front": Reading(
            not above,
            None,
            f"means of Tables 2 and 3: transformer {two['transformer']}, above it "
            + ", ".join(f"{m} {two[m]}" for m in above)
            + "; the Transformer leads only if its mean stands beside Table 4, whose highest entry is "
            f"{max(fourth.values())} and which is lower than Tables 2 and 3 wherever both are printed",
        ),
    }


def _recall() -> dict[str, Reading]:
    fifth, sixth = cells(5), cells(6)
    lines = {m: [fifth[m, r] for r in ROW] for m in RECALLED}
    falls = {m: sum(b < a for a, b in pairwise(line)) for m, line in lines.items()}
    average = {ratio: printed for ratio, (printed, _) in row_averages(5).items()}
    steps = [average[b] - average[a] for a, b in pairwise(ROW)]
    baseline, again = row_averages(6)["transformer full"]
    at_three = {m: fifth[m, "3:1"] for m in RECALLED}
    line = Decimal("0.42")
    over = [m for m, v in at_three.items() if v >= line]
    near = [m for m, v in at_three.items() if v >= line - Decimal("0.03")]
    best = {m: v for (m, _), v in sixth.items()}
    over_printed, over_mean = (
        [best[m] - base for m in ("gated_deltanet", "hgrn2")] for base in (baseline, again)
    )
    factor = average["3:1"] / average["24:1"]
    from_pure = {m: at_three[m] / fifth[m, "pure"] for m in RECALLED}
    gla = max(fifth["gla", "3:1"], best["gla"])
    return {
        "recall_trend": Reading(
            not any(falls.values()),
            all(line[-1] > line[0] for line in lines.values()),
            f"falls in {len(ROW) - 1} steps: "
            + ", ".join(f"{m} {n}" for m, n in falls.items())
            + "; pure to 3:1: "
            + ", ".join(f"{m} {line[0]} to {line[-1]}" for m, line in lines.items()),
            "from pure to 3:1, not at every step (version 2 says upward, no longer clear)",
        ),
        "approach_transformer": Reading(
            len(over) > len(at_three) / 2,
            len(near) > len(at_three) / 2,
            "at 3:1 "
            + ", ".join(f"{m} {v}" for m, v in at_three.items())
            + f"; at or above {line}: {len(over)} of 4",
            "within 3 points counts as approaching",
        ),
        "two_to_five_points": Reading(
            _two_to_five(over_printed),
            _two_to_five(over_mean),
            f"Gated DeltaNet and HGRN2 against the printed {baseline}: {_all(over_printed)} points; "
            f"against the 13-task mean of the same row, {again:.3f}: {_all(over_mean)} points",
            "the Transformer's average is the mean of its printed tasks",
        ),
        "retnet_near_zero": Reading(None, None, "no recall of RetNet is printed"),
        "hgrn2_doubles_hgrn": Reading(None, None, "no recall of HGRN is printed"),
        "recall_saturates": Reading(
            None,
            None,
            f"3:1 is the densest hybrid; the average rises at each step, {_all(steps)} points, and a step "
            "as small as the last one was followed by a large one",
        ),
        "forgetting_needed": Reading(
            None,
            gla < line,
            f"of the six only RetNet has neither, and its recall is not printed; GLA {gla}; DeltaNet, "
            f"which has the delta rule and no gate, {best['deltanet']}",
            "GLA counts as lacking it, as in the same section, though Table 1 gives it a gate",
        ),
        "gla_additive": Reading(
            False,
            True,
            "Table 1 and section 3.2 give GLA a decay for each key channel",
            "what is written is added, and nothing is read and removed first, as the delta rule does",
        ),
        "nearly_doubles": Reading(
            factor >= Decimal("1.75"),
            average["3:1"] / average["pure"] >= Decimal("1.75"),
            f"average {average['24:1']} to {average['3:1']}, a factor of {factor:.2f}; "
            + ", ".join(f"{m} {at_three[m] / fifth[m, '24:1']:.2f}" for m in RECALLED)
            + "; from the pure models: average "
            + f"{average['3:1'] / average['pure']:.2f}, "
            + ", ".join(f"{m} {f:.2f}" for m, f in from_pure.items()),
            "from pure to 3:1, counting 1.75 as nearly double; true of GLA and HGRN2 alone",
        ),
    }


def _cost() -> dict[str, Reading]:
    factors = {rule: {r: cache_factor(r, rule) for r in ("3:1", "6:1")} for rule in ("literal", "period")}
    text, released = factors["literal"], factors["period"]
    both = f"r linear blocks, then one full: {text['3:1']} and {text['6:1']}; "
    both += f"every r-th block full, as released: {released['3:1']} and {released['6:1']}"
    models = len(paper_mixers()) * len(ROW) + 1
    return {
        "cache_by_four": Reading(
            released["3:1"] == 4, text["3:1"] == 4, both, "the text's own definition of the ratio"
        ),
        "cache_four_to_seven": Reading(
            list(released.values()) == [4, 7],
            list(text.values()) == [4, 7],
            both + "; section 3.4 says a factor of about r",
            "the text's own definition of the ratio; section 3.4 fits the released models",
        ),
        "seventy_two_models": Reading(
            models == 36,
            len(paper_mixers()) * (len(ROW) + 1) == 36,
            f"{len(paper_mixers())} mixers in {len(ROW)} configurations and one Transformer: {models} a "
            f"scale, {2 * models} in all",
            "the Transformer is counted once a mixer",
        ),
    }


def _setup() -> dict[str, Reading]:
    setup = table("setup").set_index(["topic", "item"])["value"]
    steps = {scale: int(setup[scale, "steps_implied_by_print"]) for scale in ("train_340m", "train_1p3b")}
    windows = [setup["train", f"context_window_{version}"] for version in ("v1", "v2")]
    config = setup["train", "max_position_embeddings_1p3b_gdn_config"]
    arms = [
        m
        for m in ("deltanet", "gated_deltanet")
        if all(any(m == k for k, _ in cells(n)) for n in range(2, 7))
    ]
    return {
        "third_generation_surveyed": Reading(
            len(arms) == 0,
            True,
            f"{' and '.join(arms)} stand in every one of Tables 2 to 6",
            "the sentence is about the length of its section, not about the experiments",
        ),
        "batch_340m": Reading(
            None,
            None,
            f"implies {steps['train_340m']:,} steps at 340M against {steps['train_1p3b']:,} at 1.3B; "
            f"with ten times the batch it would be {steps['train_340m'] // 10:,}",
        ),
        "context_window": Reading(
            windows[0] == windows[1],
            None,
            f"{windows[0]} in version 1, {windows[1]} in version 2, with the same tables; "
            f"a released config, at second hand, says {config}",
        ),
        "zero_shot": Reading(
            False,
            True,
            "RULER's variable tracking holds one worked example, and so does common words in its first code",
            "no prompt was changed: the example belongs to the task as published",
        ),
    }


def _two_to_five(gaps: list[Decimal]) -> bool:
    return all(2 <= round(100 * gap, 1) <= 5 for gap in gaps)


def _spread(values) -> Decimal:
    values = list(values)
    return max(values) - min(values)


def _range(values) -> str:
    return f"{min(values)} to {max(values)}"


def _points(share: Decimal) -> str:
    return f"{100 * share:.1f}"


def _all(shares: list[Decimal]) -> str:
    return ", ".join(f"{100 * share:+.1f}" for share in shares)
