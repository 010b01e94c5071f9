"""The model: its state, its causality, its loss, its generation, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from flat import flat_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from hybrid.config import MIXERS
from hybrid.models.hybrid_lm import HybridLM, row_mean_loss

VOCAB = 40
HEADS = {m: {"num_heads": 2} for m in MIXERS} | {
    "hgrn": {},
    "gated_deltanet": {"num_heads": 2, "head_k_dim": 8},
}


def build(layout="LFWL", mixer="gated_deltanet", seed=0, wide=True, **fields):
    """A small float64 model, by default with parameters large enough that every gate matters."""
    window = {"window": 5} if "W" in layout else {}
    shared = {"vocab_size": VOCAB, "hidden_size": 32, "mlp_size": 48, "attn_heads": 4, "attn_kv_heads": 2}
    config = flat_config(layout, mixer, **{**shared, **window, **HEADS[mixer], **fields})
    torch.manual_seed(seed)
    model = HybridLM(config).double().eval()
    if wide:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def tokens(rows, length, seed=1):
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def in_pieces(model, ids, cuts):
    state, logits = None, []
    for piece in ids.tensor_split(cuts, dim=1):
        output = model(piece, state=state)
        state = output.state
        logits.append(output.logits)
    return torch.cat(logits, dim=1), state


MODELS = [("LFWL", mixer, conv) for mixer in MIXERS for conv in ("reference", "none", 3)] + [
    ("LLL", "hgrn2", 4),
    ("LLL", "retnet", "reference"),
    ("FF", "gla", 3),
    ("WW", "gla", "none"),
]


@pytest.mark.parametrize(("layout", "mixer", "conv"), MODELS)
@torch.no_grad()
def test_pieces_then_single_tokens_equal_one_pass(layout, mixer, conv):
    model, length = build(layout, mixer, conv=conv), 83
    ids = tokens(2, length)
    whole = model(ids).logits

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(st.sets(st.integers(1, 70), max_size=5))
    def check(cuts):
        pieces, _ = in_pieces(model, ids, [*sorted(cuts), *range(71, length)])
        torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-10)

    check()


@pytest.mark.parametrize(("layout", "mixer", "conv"), MODELS)
@torch.no_grad()
def test_no_token_sees_the_future(layout, mixer, conv):
    model, ids, changed = build(layout, mixer, conv=conv), tokens(1, 70), tokens(1, 70)
    before = model(ids).logits
    for position in (0, 1, 17, 63, 64, 69):
        changed.copy_(ids)
        changed[0, position] = (ids[0, position] + 1) % VOCAB
        difference = (model(changed).logits - before).abs().amax(-1)[0]
        assert difference[:position].max().item() <= 1e-12 if position else True
        assert difference[position:].max().item() > 1e-4


@torch.no_grad()
def test_a_window_over_the_whole_text_is_full_attention():
    full, windowed = build("LFFL", "gla"), build("LWWL", "gla", window=30)
    windowed.load_state_dict(full.state_dict())
    ids = tokens(2, 30)
    torch.testing.assert_close(windowed(ids).logits, full(ids).logits, rtol=1e-11, atol=1e-11)
    longer = tokens(2, 31)
    assert not torch.allclose(windowed(longer).logits[:, -1], full(longer).logits[:, -1], rtol=1e-6)


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_only_full_attention_has_a_growing_state(mixer):
    model = build("LFW", mixer, conv=3)

    def sizes(length):
        state = model(tokens(1, length)).state
        return [sum(leaf.numel() for leaf in tree_leaves(s) if isinstance(leaf, torch.Tensor)) for s in state]

    (linear, full, windowed), (linear_2, full_2, windowed_2) = sizes(20), sizes(60)
    assert (linear_2, windowed_2) == (linear, windowed)
    assert full_2 - full == 40 * 2 * model.config.kv_heads * 8
    state = model(tokens(1, 60)).state
    held = [leaf for s in (state[0], state[2]) for leaf in tree_leaves(s) if isinstance(leaf, torch.Tensor)]
    assert all(leaf.untyped_storage().nbytes() == leaf.nbytes for leaf in held), "a view keeps the text alive"


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_greedy_generation_equals_reading_everything_again(mixer):
    model, prompt = build("LFWL", mixer), tokens(3, 13)
    expected = prompt
    for _ in range(9):
        best = model(expected).logits[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat((expected, best), dim=1)
    for chunk in (4, 512):
        assert torch.equal(model.generate(prompt, 9, chunk=chunk), expected)


@torch.no_grad()
def test_sampling_follows_the_softmax_and_its_generator():
    model, prompt = build("LF", "gla"), tokens(1, 6).expand(4000, -1)

    def draw(seed):
        return model.generate(prompt, 1, temperature=1.5, generator=torch.Generator().manual_seed(seed))

    first = draw(0)
    assert torch.equal(first, draw(0)) and not torch.equal(first, draw(1))
    shares = (model(prompt[:1]).logits[0, -1] / 1.5).softmax(-1)
    counts = torch.bincount(first[:, -1], minlength=VOCAB) / 4000
    assert ((counts - shares).abs() <= 5 * (shares * (1 - shares) / 4000).sqrt() + 1e-3).all()


@torch.no_grad()
def test_last_only_gives_the_last_row_of_logits():
    model, ids = build(), tokens(2, 9)
    last = model(ids, last_only=True).logits
    torch.testing.assert_close(last, model(ids).logits[:, -1:], rtol=1e-12, atol=1e-12)


def test_loss_counts_every_labelled_row_the_same():
    logits = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 3.0]], [[9.0, 1.0], [1.0, 9.0]]])
    labels = torch.tensor([[0, 1], [-100, 1], [-100, -100]])
    log2, e = torch.tensor(2.0).log(), torch.exp
    first = (log2 + (1 + e(torch.tensor(1.0))).log()) / 2
    second = (1 + e(torch.tensor(3.0))).log() - 3
    torch.testing.assert_close(row_mean_loss(logits, labels), (first + second) / 2)
    assert row_mean_loss(logits, torch.full_like(labels, -100)) == 0
    assert row_mean_loss(logits.bfloat16(), labels).dtype is torch.float32


def test_labels_are_the_targets_of_their_own_position():
    model, ids = build(), tokens(2, 12)
    labels = ids.roll(-1, dims=1)
    labels[:, -1] = -100
    output = model(ids, labels=labels)
    share = output.logits.log_softmax(-1)
    expected = -torch.stack([share[r, t, ids[r, t + 1]] for r in range(2) for t in range(11)]).mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-12, atol=1e-12)
    assert model(ids).loss is None


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_parameter_learns(mixer):
    model, ids = build("LFWL", mixer, conv=3, qk_norm=True), tokens(2, 20)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("mixer", MIXERS)
def test_gradient_equals_finite_differences(mixer):
    model, ids = build("LF", mixer), tokens(1, 9)
    loss = model(ids, labels=ids).loss
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    generator, step = torch.Generator().manual_seed(3), 1e-5
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            above = model(ids, labels=ids).loss
            parameter.add_(direction, alpha=-2 * step)
            below = model(ids, labels=ids).loss
            parameter.add_(direction, alpha=step)
        slope = ((above - below) / (2 * step)).item()
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-8), name


def test_lower_bounds_rise_from_zero_over_the_blocks(monkeypatch):
    model, seen = build("LLFL", "hgrn", wide=False), {}
    for index, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(
            lambda _, __, gates, index=index: seen.update({index: gates.get("lower_bound")}), with_kwargs=True
        )
    model(tokens(1, 3))
    assert sorted(i for i, bound in seen.items() if bound is not None) == [0, 1, 3]
    for index in (0, 1, 3):
        torch.testing.assert_close(seen[index], torch.full((32,), index / 4, dtype=torch.float64))
    assert model.model.lower_bounds.shape == (4, 32)
    assert not hasattr(build("LF", "gla").model, "lower_bounds")
    assert not hasattr(build("FF", "hgrn").model, "lower_bounds")


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_model_on_meta_becomes_the_same_model(mixer):
    config = build("LFL", mixer).config
    with torch.device("meta"):
        later = HybridLM(config)
    assert all(parameter.is_meta for parameter in later.parameters())
    later.to_empty(device="cpu")
    now = HybridLM(config)
    for model in (later, now):
        torch.manual_seed(4)
        model.reset_parameters()
    for (name, one), (_, other) in zip(later.named_parameters(), now.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("mixer", MIXERS)
def test_bfloat16_stays_close_to_float32(mixer):
    model = build("LFWL", mixer, wide=False).float()
    ids = tokens(2, 20)
    exact = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        output = model(ids, labels=ids)
    assert output.loss.dtype is torch.float32
    torch.testing.assert_close(output.loss, exact, rtol=0.01, atol=0)
    assert model.bfloat16()(ids).logits.dtype is torch.bfloat16


def test_tied_embeddings_are_one_parameter():
    tied, untied = build(tie_embeddings=True), build()
    assert tied.lm_head.weight is tied.model.embeddings.weight
    counts = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert counts[1] - counts[0] == VOCAB * 32


def test_a_seed_decides_every_parameter():
    one, same, other = (build(wide=False, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_block_is_two_residual_branches():
    model, x = build("F", "gla"), torch.randn(1, 5, 32, dtype=torch.float64)
    block = model.model.layers[0]

    def norm(y, weight):
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    middle = x + block.attn(norm(x, block.attn_norm.weight))[0]
    z = norm(middle, block.mlp_norm.weight)
    gate, up, down = (p.weight for p in (block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj))
    expected = middle + (F.silu(z @ gate.T) * (z @ up.T)) @ down.T
    torch.testing.assert_close(block(x)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(torch.zeros(4, dtype=torch.long)),
            "input_ids must be [B, T] with B > 0 and T > 0; got shape (4,)",
        ),
        (lambda m: m(torch.zeros(1, 0, dtype=torch.long)), "got shape (1, 0)"),
        (
            lambda m: m(tokens(1, 4), labels=tokens(1, 3)),
            "labels must have the shape of input_ids (1, 4); got (1, 3)",
        ),
        (
            lambda m: m(tokens(1, 4), labels=tokens(1, 4), last_only=True),
            "labels need every position's logits",
        ),
        (lambda m: m(tokens(1, 4), state=[None]), "state must hold 4 blocks; got 1"),
        (lambda m: m.generate(tokens(1, 4), 0), "max_new_tokens must be at least 1; got 0"),
        (lambda m: m(torch.zeros(0, 3, dtype=torch.long)), "got shape (0, 3)"),
        (lambda m: m(torch.zeros(1, 3)), "input_ids must be int64 or int32; got torch.float32"),
        (lambda m: m.generate(tokens(1, 4)[0], 1), "with B > 0 and T > 0; got shape (4,)"),
        (lambda m: m.generate(tokens(1, 0), 1), "with B > 0 and T > 0; got shape (1, 0)"),
        (lambda m: m.generate(tokens(0, 4), 1), "with B > 0 and T > 0; got shape (0, 4)"),
        *(
            (
                lambda m, t=t: m.generate(tokens(1, 4), 1, temperature=t),
                f"temperature must be 0 or a number above 1e-06; got {t}",
            )
            for t in (-1.0, 1e-40, float("nan"), float("inf"))
        ),
        (lambda m: m.generate(tokens(1, 4), 1, chunk=0), "chunk must be at least 1; got 0"),
    ],
)
def test_wrong_calls_are_refused_by_name(call, message):
    with pytest.raises(ValueError) as error:
        call(build())
    assert message in str(error.value)
