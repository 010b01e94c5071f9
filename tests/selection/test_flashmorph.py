"""FlashMorph: its loss and gradients against formulas, and a teacher whose needed blocks are known."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from flat import flat_config

from hybrid.config import RunSpec, TrainConfig
from hybrid.config.layout import Layout
from hybrid.conversion.distillation import output_errors
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.models.hybrid_lm import HybridLM
from hybrid.selection import planted
from hybrid.selection.base import Problem, SelectSpec, top
from hybrid.selection.flashmorph import (
    GATES,
    UNIT_BATCHES,
    FlashMorph,
    GateTexts,
    LitGates,
    block_errors,
    isolated_errors,
)
from hybrid.selection.planted import MATCH, PASSKEYS, PREVIOUS, TASK
from hybrid.training.evaluation import passkey_accuracy

BYTES = 256
QUICK = replace(GATES, steps=30, batch_size=4, lr=0.1, eval_every=15)


def morphable(branch: str = "gated_deltanet", window: int | None = None, seed: int = 0) -> Morphable:
    """A random teacher of three blocks with random second mixers, all frozen."""
    torch.manual_seed(seed)
    config = flat_config(
        "FFF", vocab_size=BYTES + 26, hidden_size=16, mlp_size=24, attn_heads=4, attn_kv_heads=2, init_std=0.3
    )
    return Morphable(HybridLM(config), branch, window).requires_grad_(False)


def problem(model: Morphable, passkeys: Passkeys = PASSKEYS, folder=None) -> Problem:
    return Problem(model, TaskData(TASK, TrainConfig(batch_size=8), seed=0), passkeys, folder)


def batch(model: Morphable, texts: str = "passkeys") -> dict[str, torch.Tensor]:
    return GateTexts(problem(model), QUICK, texts).train_batch(0)


BRANCHES = [("gated_deltanet", None), ("hgrn2", None), ("hgrn", None), ("window", 3)]


@pytest.mark.parametrize(("branch", "window"), BRANCHES)
def test_gates_at_one_give_the_teacher_and_at_zero_the_converted_model(branch, window):
    model, ids = morphable(branch, window), torch.randint(BYTES, (2, 13))
    for learnt in (False, True):
        for layout in ("FFF", "LLL", "LFL"):
            gates = torch.tensor([float(letter == "F") for letter in layout], requires_grad=learnt)
            expected = model.teacher if layout == "FFF" else model.hybrid(layout)
            assert torch.equal(model(ids, gates).logits, expected(ids).logits), (layout, learnt)


def test_gates_are_not_rounded_to_the_precision_of_the_mixers():
    """One minus 2^-12 is one in bfloat16."""
    model, ids = morphable(), torch.randint(BYTES, (2, 13))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        teacher = model(ids, torch.ones(3)).outputs[0].float()
        second = model(ids, torch.zeros(3)).outputs[0].float()
        mixed = model(ids, torch.tensor([1 - 2**-12, 1.0, 1.0])).outputs[0]
    torch.testing.assert_close(mixed - teacher, (second - teacher) / 4096, rtol=1e-2, atol=1e-6)


def test_only_the_gates_learn(tmp_path):
    model = morphable()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module = LitGates(QUICK, 3, partial(block_errors, model), 1.0, 1.0)
    module.loss(batch(model)).backward()
    assert [name for name, _ in module.named_parameters()] == ["gates"]
    assert module.gates.grad.ne(0).all()
    assert all(parameter.grad is None for parameter in model.parameters())
    FlashMorph(train=replace(QUICK, steps=2, eval_every=2)).select(problem(model, folder=tmp_path), (1,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {"gates"}


def test_the_error_of_the_last_block_reaches_every_gate_through_the_blocks_between():
    model = morphable()
    text = batch(model).values()
    for propagate in (True, False):
        gates = torch.full((3,), 0.5, requires_grad=True)
        block_errors(model, *text, gates, propagate)[-1].backward()
        assert gates.grad[:-1].ne(0).all() if propagate else gates.grad[:-1].eq(0).all()
        assert gates.grad[-1] != 0


def test_errors_against_a_loop_over_answer_positions():
    model = morphable()
    data = problem(model)
    text = PASSKEYS.train_batch(TaskData(TASK, QUICK, seed=0), 0)
    gates = torch.tensor([0.3, 0.9, 0.6])
    mixed = model(text["input_ids"], gates).outputs
    target = model(text["input_ids"], torch.ones(3)).outputs
    expected = []
    for ours, theirs in zip(mixed, target, strict=True):
        each = [
            sum((a - b) ** 2 for a, b in zip(ours[row, t].tolist(), theirs[row, t].tolist(), strict=True))
            for row, labels in enumerate(text["labels"].tolist())
            for t, label in enumerate(labels)
            if label >= 0
        ]
        assert len(each) == 4 * PASSKEYS.keys
        expected.append(sum(each) / len(each))
    made = GateTexts(data, QUICK, "passkeys").train_batch(0)
    got = block_errors(model, made["input_ids"], made["chosen"], gates)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("propagate", [True, False])
def test_the_gradient_of_the_loss_against_finite_differences(propagate):
    model = morphable("hgrn2").double()
    module = LitGates(QUICK, 3, partial(block_errors, model, propagate=propagate), 0.7, 1.3).double()
    text = batch(model)
    module.gates.data = torch.tensor([0.2, 0.55, 0.9], dtype=torch.float64)
    module.loss(text).backward()
    for index, step in enumerate(1e-5 * torch.eye(3, dtype=torch.float64)):
        there = []
        for sign in (1, -1):
            moved = LitGates(QUICK, 3, module.errors, 0.7, 1.3).double()
            moved.gates.data = module.gates.data + sign * step
            there.append(moved.loss(text).item())
        assert module.gates.grad[index].item() == pytest.approx((there[0] - there[1]) / 2e-5, rel=1e-6)


def test_separable_gates_have_their_closed_form_as_minimum():
    """A convex loss is least where its gradient is zero, or points out of [0, 1]."""
    model = morphable()
    text = batch(model)
    forced = partial(block_errors, model, propagate=False)
    isolated = forced(*text.values(), torch.zeros(3))
    lam = isolated.median().item() * 2 / 3 * 0.9
    module = LitGates(QUICK, 3, forced, lam, 1.0)
    module.gates.data = 1 - (lam * 3 / (2 * isolated)).clamp_max(1)
    module.loss(text).backward()
    inside = module.gates > 0
    assert inside.sum() == 2
    assert module.gates.grad[inside].abs().max() < 1e-5 * lam
    assert module.gates.grad[~inside].min() > 0.01 * lam


def test_without_a_price_all_gates_stay_and_with_a_high_one_all_close():
    made = problem(morphable())
    for lam, gate in ((0, 1.0), (1e5, 0.0)):
        found = FlashMorph(train=replace(QUICK, steps=20), lam=lam).select(made, (1, 2))
        assert found.scores == [gate] * 3
        row = found.tables["saturation"][0]
        assert (row["open"], row["closed"], row["between"]) == ((3, 0, 0) if gate else (0, 3, 0))
        assert found.tables["ties"] == [{"budget": 1, "tied": True}, {"budget": 2, "tied": True}]


def test_the_blocks_that_recall_are_found_and_not_those_with_the_largest_error():
    made, needed = planted.problem(), Layout.from_full((PREVIOUS, MATCH), 6)

    def recall(layout) -> float:
        return passkey_accuracy(planted.morphable().hybrid(layout), made.data, PASSKEYS, 32)[0]["accuracy"]

    pairs = [Layout.from_full(full, 6) for full in itertools.combinations(range(6), 2)]
    accuracy = {layout: recall(layout) for layout in pairs}
    assert accuracy.pop(needed) == recall("FFFFFF") == 1
    assert max(accuracy.values()) < 0.5

    errors = [row["error"] for row in output_errors(planted.morphable(), made.data, 32)]
    assert not set(top(errors, 2).full) & {PREVIOUS, MATCH}

    found = FlashMorph(train=QUICK).select(made, (2,))
    assert found.layouts == {2: [needed]}
    assert found.tables["saturation"][0]["between"] >= 4
    assert found.tables["ties"] == [{"budget": 2, "tied": False}]


def test_the_ablations_miss_what_the_method_finds():
    """To the teacher's stream, the block that looks one token back adds less than any other; to text
    without passkeys neither block adds anything."""
    made = planted.problem()
    forced = FlashMorph(train=QUICK, propagate=False).select(made, (2,))
    assert forced.layouts[2][0].full[-1] == MATCH and PREVIOUS not in forced.layouts[2][0].full
    isolated = torch.tensor([row["isolated"] for row in forced.tables["gates"]])
    unit = forced.tables["saturation"][0]["unit"]
    assert unit == pytest.approx(isolated.median().item() / 6)
    # Thirty steps on texts that differ come near the minimum of the mean error.
    closed_form = 1 - (unit * 6 / (2 * isolated)).clamp_max(1)
    assert forced.scores == pytest.approx(closed_form.tolist(), abs=0.15)
    plain = FlashMorph(train=QUICK, texts="plain").select(made, (2,))
    assert not set(plain.layouts[2][0].full) & {PREVIOUS, MATCH}


@pytest.mark.parametrize("texts", ["passkeys", "plain"])
@pytest.mark.parametrize("propagate", [True, False])
def test_tokens_are_those_that_pass_through_the_blocks(texts, propagate):
    model = morphable()
    passkeys = replace(PASSKEYS, lengths=(24, 31))
    seen = []
    hook = model.teacher.model.embeddings.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].numel())
    )
    method = FlashMorph(
        train=replace(QUICK, steps=5, accumulate=2, eval_every=5), texts=texts, propagate=propagate
    )
    found = method.select(problem(model, passkeys), (1,))
    hook.remove()
    assert set(seen) == {2 * 24, 2 * 31}
    isolated, training = seen[:UNIT_BATCHES], seen[UNIT_BATCHES:]
    assert len(training) == (20 if propagate else 10)
    backward = sum(training) if propagate else 0
    assert found.tokens == sum(isolated) + sum(training) + backward


def test_plain_texts_are_text_of_the_same_lengths_and_count_everywhere():
    passkeys = replace(PASSKEYS, lengths=(24, 31, 40))
    given = problem(morphable(), passkeys)
    asked, plain = (GateTexts(given, QUICK, texts) for texts in ("passkeys", "plain"))
    whole = asked.corpus.train.tobytes()
    for index in range(6):
        text = plain.train_batch(index)
        assert text["input_ids"].shape == asked.train_batch(index)["input_ids"].shape
        assert text["chosen"].all()
        assert all(bytes(row) in whole for row in text["input_ids"].tolist())
    assert not torch.equal(plain.train_batch(0)["input_ids"], plain.train_batch(1)["input_ids"][:, :1])


class Stopped(Exception):
    pass


def test_a_stopped_training_goes_on_to_the_same_gates(tmp_path, monkeypatch, recwarn):
    method = FlashMorph(train=replace(QUICK, steps=8, eval_every=2))
    given = problem(morphable())
    whole = method.select(given, (1,))
    original = LitGates.loss

    def loss(self, batch):
        if self.global_step == 5:
            raise Stopped
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(LitGates, "loss", loss)
        with pytest.raises(Stopped):
            method.select(replace(given, folder=tmp_path), (1,))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    resumed = method.select(replace(given, folder=tmp_path), (1,))
    assert (resumed.scores, resumed.tokens) == (whole.scores, whole.tokens)
    assert resumed.curve == whole.curve
    assert [point["step"] for point in whole.curve] == [2, 4, 6, 8]
    assert [whole.curve[-1][f"gate_{i}"] for i in range(3)] == whole.scores
    assert not [str(w.message) for w in recwarn if "eval mode" in str(w.message)]


def test_gates_stay_between_zero_and_one_at_every_step(monkeypatch):
    values = []
    original = LitGates.loss

    def loss(self, batch):
        values.append(self.gates.detach().clone())
        return original(self, batch)

    monkeypatch.setattr(LitGates, "loss", loss)
    FlashMorph(train=replace(QUICK, steps=10, lr=0.9)).select(problem(morphable()), (1,))
    gates = torch.stack(values)
    assert gates[0].eq(1).all()
    assert gates.min() == 0 and gates.max() == 1


def test_equal_branches_have_no_unit():
    model = morphable("window", 64)
    given = problem(model)
    assert not isolated_errors(model, GateTexts(given, QUICK, "passkeys")).any()
    with pytest.raises(ValueError, match="isolated error is 0"):
        FlashMorph(train=QUICK).select(given, (1,))
    closed = FlashMorph(train=replace(QUICK, steps=2), normalise=False).select(given, (1,))
    assert closed.tables["saturation"][0]["unit"] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"texts": "essays"}, "unknown texts 'essays'; allowed: passkeys, plain"),
        ({"lam": -0.1}, "got -0.1"),
        ({"lam": float("nan")}, "got nan"),
        ({"lam": float("inf")}, "got inf"),
        ({"lam": "0.1"}, "got '0.1'"),
    ],
)
def test_wrong_fields_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        FlashMorph(**changes)


@pytest.mark.parametrize("budgets", [(), (0,), (3,), (1, 1), (1.5,)])
def test_impossible_budgets_are_refused_before_any_work(budgets):
    with pytest.raises(ValueError, match="budget"):
        FlashMorph().select(Problem(morphable(), None, PASSKEYS), budgets)


def test_teachers_that_cannot_be_used_are_refused():
    config = flat_config("FLF", hidden_size=16, attn_heads=4, num_heads=1, head_k_dim=8, head_v_dim=8)
    with pytest.raises(ValueError, match="full attention in every block; got layout FLF"):
        Morphable(HybridLM(config), "gla")
    model = morphable()
    small = replace(TASK, recall_vocab=32)
    with pytest.raises(ValueError, match="vocab_size of at least 289; got 282"):
        FlashMorph().select(Problem(model, TaskData(small, QUICK, 0), PASSKEYS), (1,))


def test_a_spec_reads_back_and_keeps_its_name():
    align = AlignSpec(RunSpec(morphable().teacher.config, TASK, TrainConfig()), "gla")
    method = FlashMorph(train=QUICK, lam=2, texts="plain", propagate=False)
    spec = SelectSpec(align, method, (1, 2), PASSKEYS)
    again = SelectSpec.from_dict(spec.to_dict())
    assert again == spec and again.run_id == spec.run_id
    assert SelectSpec(align, FlashMorph(lam=1), (1,)).run_id == SelectSpec(align, FlashMorph(), (1,)).run_id
