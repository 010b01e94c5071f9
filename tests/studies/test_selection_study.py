"""The study of layer selection: declared whole at every scale, and run through at the smallest."""

from dataclasses import replace

import pytest

from hybrid.claims import selection as observations
from hybrid.conversion import distillation
from hybrid.conversion.distillation import aligned
from hybrid.conversion.specs import HybridSpec
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.runs import runner, tables, trainers
from hybrid.runs.store import Store
from hybrid.selection.consa import consa
from hybrid.selection.run import select
from hybrid.studies import catalogue, grid, selection
from hybrid.studies import selection_scales as scales
from hybrid.training import fit


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("scale", scales.SELECTION)
def test_every_part_is_declared_with_one_teacher_and_one_name_a_spec(scale):
    size = scales.selection_scale(scale)
    specs = [spec for part in ("alignment", "selection") for spec in selection.every(part, scale)]
    specs += [spec for arm in selection.masks(scale).values() for spec in arm] + selection.mask_rates(scale)
    assert len({spec.run_id for spec in specs}) == len(set(specs)) == len(specs)
    assert {spec.root for spec in specs} == {selection.teacher(scale)}
    assert all(trainers.read(spec.to_dict()) == spec for spec in specs)
    length = selection.teacher(scale).task.seq_len
    assert size.window <= length // 4
    assert size.passkeys.lengths == (length,) and size.finetune.seq_len == 2 * length
    assert set(size.passkeys.eval_lengths) <= {length, 2 * length, 4 * length}
    assert all(0 < budget < size.depth for budget in size.budgets)


def test_the_teacher_is_trained_once(empty, monkeypatch):
    trained, real = [], fit.fit

    def counted(spec, **arguments):
        trained.append(spec)
        return real(spec, **arguments)

    monkeypatch.setattr(fit, "fit", counted)
    for spec in selection.every("alignment", "smoke"):
        runner.train_one(spec, progress=False)
    assert trained == [selection.teacher("smoke")]


def test_a_stored_result_of_a_teacher_stays_as_it_is(empty):
    """Its weights may be made again by newer code, too; its result is another matter."""
    spec = selection.teacher("smoke")
    result = runner.train_one(spec, progress=False)
    Store().write(replace(result, message="kept"))
    before = Store().path(spec).read_bytes()
    distillation.trained(spec)
    assert Store().path(spec).read_bytes() == before


def test_budgets_are_a_sixth_a_quarter_and_a_half():
    assert scales.selection_scale("laptop").budgets == (1, 2, 4)
    assert scales.selection_scale("gpu").budgets == (2, 3, 6)


@pytest.mark.parametrize("scale", scales.SELECTION)
def test_rates_of_masks_are_compared_on_a_seed_no_study_reports(scale):
    specs = selection.every("mask_rates", scale)
    assert {spec.seed for spec in specs} == {grid.SWEEP_SEED}
    assert all(spec.seed != grid.SWEEP_SEED for arm in selection.masks(scale).values() for spec in arm)
    size = scales.selection_scale(scale)
    by = {method: [s for s in specs if s.method == method] for method in ("lagrangian", "l1")}
    assert sum(map(len, by.values())) == len(specs)
    assert {s.multiplier_lr / size.multiplier_lr for s in by["lagrangian"]} == {0.5, 1, 2}
    prices = {s.l1 for s in by["l1"]}
    assert {factor * size.gate_price for factor in (0.5, 1, 2)} | {0.05} == prices
    gates = selection.masks(scale)["scalar gates, blocks"]
    assert {s.l1 for s in gates} == {size.gate_price}


def test_unknown_scales_are_refused():
    for name in ("selection", "consa", "alignment", "conversion", "mask_rates"):
        with pytest.raises(ValueError, match="unknown scale 'paper' of layer selection; allowed: smoke"):
            catalogue.study(name, "paper")


def test_follow_ups_need_stored_selections(empty):
    with pytest.raises(selection.NotStored, match=r"\(uniform, first, seed 0\) is not stored: run `python"):
        selection.hybrids("smoke")
    with pytest.raises(selection.NotStored, match=r"\(FlashMorph on window, seed 0\) is not stored"):
        selection.given("smoke")


def test_the_smallest_study_runs_through(empty):
    """Every selector, the follow-ups of what they chose, and every arm of the masks, at smoke scale."""
    for part in ("selection", "conversion", "consa"):
        specs = selection.every(part, "smoke")
        for spec in specs:
            assert runner.train_one(spec, progress=False).status == "done", spec.title
    # Selectors that chose the same blocks share their follow-up.
    followed = selection.hybrids("smoke")
    chosen = {
        (row["layout"], spec.align)
        for name in selection.selectors("smoke")
        for spec in selection.selections("smoke")[name]
        for row in Store().read(spec).metrics["layouts"]
    }
    assert len(followed) == len(chosen) and all(isinstance(spec, HybridSpec) for spec in followed)
    table = tables.one_row_a_run({spec: Store().read(spec) for spec in selection.every("selection", "smoke")})
    assert not table["stale"].any() and set(table["selector"]) >= {"uniform", "flashmorph", "exhaustive"}

    seen = observations.observed("smoke")
    # Ten steps teach a teacher nothing, and the observations say so.
    assert (seen["metric"] == "untaught").sum() == 2
    exhaustive = seen[(seen["name"] == "exhaustive") & (seen["metric"] == "better")]
    assert len(exhaustive) == 2 and (exhaustive["value"] <= 0.5).all()
    arms = seen[(seen["study"] == "consa") & (seen["metric"] == "loss")]
    assert set(arms["name"]) == set(selection.masks("smoke")) | set(selection.given("smoke"))
    chosen = selection.selections("smoke")["FlashMorph on window"][0]
    for spec in selection.given("smoke")["FlashMorph's blocks"]:
        assert str(spec.given) in [row["layout"] for row in Store().read(chosen).metrics["layouts"]]
        assert Store().read(spec).metrics["layout"] == str(spec.given).replace("L", "W")


@pytest.mark.parametrize("name", selection.selectors("smoke"))
def test_no_selector_chooses_on_the_questions_it_is_judged_by(name, empty, monkeypatch):
    """All but the exhaustive search, the truth that the others are ranked by."""
    read = []
    for kind, batches in (
        (Passkeys, "eval_batches"),
        (TaskData, "val_text_batches"),
        (TaskData, "suite_eval_batches"),
    ):
        made = getattr(kind, batches)

        def spied(self, *args, made=made):
            read.append(next(part.asked for part in (self, *args) if isinstance(part, TaskData)))
            return made(self, *args)

        monkeypatch.setattr(kind, batches, spied)
    spec = selection.selections("smoke")[name][0]
    aligned(spec.align)
    read.clear()
    assert select(spec, progress=False).status == "done"
    # Whether the teacher has learnt its passkeys is asked of those that are reported.
    assert read[0] == "eval"
    assert set(read[1:]) <= ({"eval"} if name == "exhaustive" else {"select"})


def test_a_diverged_alignment_makes_failed_results(empty):
    size = scales.selection_scale("smoke")
    wild = replace(size.align, train=replace(size.align.train, lr=1e30))
    spec = selection.selections("smoke")["random"][0]
    result = select(replace(spec, align=replace(spec.align, stage=wild)), progress=False)
    assert result.status == "failed" and "not finite" in result.message and not result.metrics["layouts"]
    linear = selection.masks("smoke")["ConSA, full against linear"][0]
    result = consa(replace(linear, align=replace(linear.align, stage=wild)), progress=False)
    assert result.status == "failed" and "not finite" in result.message and not result.metrics["stages"]


@pytest.mark.parametrize("scale", scales.SELECTION)
def test_masks_learn_on_plain_text_and_scalar_gates_at_a_rate_of_their_own(scale):
    size = scales.selection_scale(scale)
    for name, specs in selection.masks(scale).items():
        for spec in specs:
            assert spec.learn.task(spec.align.teacher.task).recall_fraction == 0
            assert spec.train.task(spec.align.teacher.task).recall_fraction > 0
            if spec.method in ("l1", "lagrangian"):
                assert spec.mask_lr == (size.gate_lr if name.startswith("scalar") else size.mask_lr)


@pytest.mark.parametrize("scale", scales.SELECTION)
def test_the_control_is_the_teacher_through_stage_three_alone(scale):
    size, found = scales.selection_scale(scale), selection.controls(scale)
    assert [spec.seed for spec in found] == list(size.seeds)
    for spec in found:
        assert set(str(spec.layout)) == {"F"} and spec.root == selection.teacher(scale)
        assert spec.align.stage is None and spec.distill is None
        assert (spec.finetune, spec.passkeys) == (size.finetune, size.passkeys)
        assert trainers.read(spec.to_dict()) == spec
