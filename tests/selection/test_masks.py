"""Masked models against the dense mixture by the definition, and against the models that rounding gives."""

import pytest
import torch
from flat import flat_config
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.conversion.distillation import device
from hybrid.conversion.morphable import Morphable
from hybrid.models.hybrid_lm import HybridLM
from hybrid.selection.masks import LinearMasks, MaskedAttention, WindowMasks, highest, interleaved, kept

CONFIG = flat_config(
    "FFF", vocab_size=31, hidden_size=24, mlp_size=20, attn_heads=6, attn_kv_heads=3, init_std=0.3
)
WINDOW = 5
TIGHT = {"rtol": 1e-9, "atol": 1e-10}
IDS = torch.randint(31, (2, 17), generator=torch.Generator().manual_seed(0))
BITS = st.lists(st.booleans(), min_size=3, max_size=3)


def dense() -> HybridLM:
    torch.manual_seed(0)
    return HybridLM(CONFIG).double().to(device())


def graded(logits: torch.Tensor, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (logits.log_softmax(-1)[..., 3].sum()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def by_loops(q, k, v, mask):
    """One query head, position and kind of attention at a time."""
    out = torch.zeros_like(q)
    for head in range(q.shape[2]):
        ours = head * k.shape[2] // q.shape[2]
        for t in range(q.shape[1]):
            for start, share in ((0, mask[ours]), (max(0, t - WINDOW + 1), 1 - mask[ours])):
                seen = k[:, start : t + 1, ours]
                weights = (seen @ q[:, t, head].unsqueeze(-1) / q.shape[-1] ** 0.5).softmax(1)
                out[:, t, head] += share * (weights * v[:, start : t + 1, ours]).sum(1)
    return out


@pytest.mark.parametrize("mask", [[0.3], [0.0, 0.25, 1.0], [0.9, 0.5, 0.1]])
def test_attention_is_the_mixture_by_key_value_head(mask):
    torch.manual_seed(1)
    attention = MaskedAttention(CONFIG, 0, WINDOW).double()
    q = torch.randn(2, 9, 6, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 9, 3, 4, dtype=torch.float64)
    attention.mask = torch.tensor(mask, dtype=torch.float64)
    expected = by_loops(q, k, v, (mask * 3)[:3])
    torch.testing.assert_close(attention.attend(q, k, v, None)[0], expected, **TIGHT)


@settings(max_examples=15, deadline=None)
@given(st.lists(BITS, min_size=3, max_size=3))
def test_masks_of_0_and_1_are_the_rounded_model(rows):
    full = torch.tensor(rows)
    masked = WindowMasks(dense(), WINDOW)
    model = masked.rounded(full)
    ids = IDS.to(device())
    ours, theirs = masked(ids, full.double().to(device())), model(ids).logits
    torch.testing.assert_close(ours, theirs, **TIGHT)
    torch.testing.assert_close(graded(ours, masked.model), graded(theirs, model), **TIGHT)


def test_rounding_names_the_layout_and_the_full_heads():
    masked = WindowMasks(dense(), WINDOW)
    full = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()
    config = masked.rounded(full).config
    assert (str(config.layout), config.window.size) == ("FWW", WINDOW)
    assert config.window.full_heads == ((), (1,), ())
    layers = masked.rounded(torch.tensor([[False], [True], [False]])).config
    assert (str(layers.layout), layers.window.full_heads) == ("WFW", None)
    assert masked.rounded(torch.ones(3, 1).bool()).config == CONFIG


def test_a_mask_of_a_block_is_the_mask_of_all_its_heads():
    masked, z = WindowMasks(dense(), WINDOW), torch.tensor([[0.2], [0.7], [1.0]], dtype=torch.float64)
    z, ids = z.to(device()), IDS.to(device())
    torch.testing.assert_close(masked(ids, z), masked(ids, z.expand(3, 3)), **TIGHT)


def test_the_masked_model_starts_as_a_copy_and_rounding_copies_too():
    start = dense()
    masked = WindowMasks(start, WINDOW)
    model = masked.rounded(torch.tensor([[1], [0], [1]]).bool())
    before = {name: p.clone() for name, p in masked.model.named_parameters()}
    assert all(torch.equal(p, before[name]) for name, p in start.named_parameters())
    with torch.no_grad():
        for p in (*model.parameters(), *start.parameters()):
            p.add_(1)
    assert all(torch.equal(p, before[name]) for name, p in masked.model.named_parameters())


@pytest.mark.parametrize("branch", ["window", "gla", "hgrn"])
def test_all_weights_and_masks_learn(branch):
    morphable = Morphable(dense(), branch, WINDOW if branch == "window" else None)
    morphable = morphable.double().to(device()).requires_grad_(False)
    masked = WindowMasks(morphable.teacher, WINDOW) if branch == "window" else LinearMasks(morphable)
    z = torch.full((3, 1), 0.4, dtype=torch.float64, device=device(), requires_grad=True)
    found = graded(masked(IDS.to(device()), z), masked)
    assert (z.grad != 0).all()
    theirs = (
        {} if branch == "window" else dict(morphable.student.named_parameters(prefix="morphable.student"))
    )
    silent = {name for name in theirs if ".attn." not in name and not name.endswith("lower_bounds")}
    assert {name for name, gradient in found.items() if gradient is None} == silent
    assert all(gradient.any() for name, gradient in found.items() if name not in silent)


@pytest.mark.parametrize("layout", ["FLF", "LLL", "LFF", "FFF"])
def test_linear_masks_of_0_and_1_are_the_rounded_model(layout):
    morphable = Morphable(dense(), "gla").double().to(device())
    masked = LinearMasks(morphable)
    full = torch.tensor([[letter == "F"] for letter in layout])
    z = full.double().to(device()).requires_grad_()
    model = masked.rounded(full).double()
    assert str(model.config.layout) == layout and all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(masked(IDS.to(device()), z), model(IDS.to(device())).logits, **TIGHT)


@given(st.integers(1, 6), st.integers(1, 5), st.floats(0, 1), st.integers(0, 99))
def test_the_highest_are_kept_in_either_scope(blocks, units, share, seed):
    scores = torch.rand(blocks, units, generator=torch.Generator().manual_seed(seed))
    whole, each = highest(scores, share, "all"), highest(scores, share, "layer")
    assert whole.sum() == kept(blocks * units, share)
    assert each.sum(1).tolist() == [kept(units, share)] * blocks
    for kept_scores, left in [(scores[whole], scores[~whole])] + [
        (row[z], row[~z]) for row, z in zip(scores, each, strict=True)
    ]:
        assert not len(kept_scores) or not len(left) or kept_scores.min() >= left.max()


def test_of_equal_scores_the_earlier_are_kept():
    assert highest(torch.ones(2, 3), 0.5, "all").tolist() == [[True] * 3, [False] * 3]
    assert highest(torch.ones(2, 3), 2 / 3, "layer").tolist() == [[True, False, False]] * 2


def test_a_rule_spreads_full_attention_evenly():
    def text(masks):
        return ["".join("FW"[not z] for z in row) for row in masks.tolist()]

    assert text(interleaved(8, 1, 0.5)) == list("WFWFWFWF")
    assert text(interleaved(8, 1, 0.75)) == list("WWWFWWWF")
    assert text(interleaved(3, 4, 0.25)) == ["FFWF"] * 3
    assert text(interleaved(2, 4, 0.75)) == ["WWWF"] * 2
