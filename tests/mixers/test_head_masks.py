"""A window block with full heads against both kinds of attention over all heads, mixed by a mask."""

from collections import Counter

import pytest
import torch
from flat import flat_config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid.config import ModelConfig
from hybrid.kernels import softmax_attention
from hybrid.mixers import attention, build_mixer
from hybrid.mixers.attention import Attention
from hybrid.models.hybrid_lm import HybridLM

TIGHT = {"rtol": 1e-9, "atol": 1e-10}


class Dense(Attention):
    """Both kinds over all heads by the definition, of which the mask takes one for each head."""

    def attend(self, q, k, v, past):
        assert past is None
        group, full = q.shape[2] // k.shape[2], set(self.spans[0][0])
        over_all = softmax_attention(q, k, v, backend="recurrent")
        windowed = softmax_attention(q, k, v, window=self.spans[1][1], backend="recurrent")
        mask = torch.tensor([float(head // group in full) for head in range(q.shape[2])]).to(q)[:, None]
        return mask * over_all + (1 - mask) * windowed, (k, v)


@st.composite
def blocks(draw) -> ModelConfig:
    """One window block, some but not all of whose key-value heads see the whole past."""
    kv_heads, group = draw(st.integers(2, 5)), draw(st.integers(1, 3))
    full = draw(st.sets(st.integers(0, kv_heads - 1), min_size=1, max_size=kv_heads - 1))
    return flat_config(
        "W",
        hidden_size=6 * kv_heads * group,
        attn_heads=kv_heads * group,
        attn_kv_heads=kv_heads,
        window=draw(st.integers(1, 30)),
        full_heads=(sorted(full),),
        rope_theta=draw(st.sampled_from([None, 500.0])),
        qk_norm=draw(st.booleans()),
        conv=draw(st.sampled_from(["none", 3])),
    )


def built(config: ModelConfig, kind=Attention) -> Attention:
    """A float64 block whose every parameter is random and the same for every `kind`."""
    torch.manual_seed(0)
    mixer = kind(config, 0).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.4)
    return mixer


def text(config: ModelConfig, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, length, config.hidden_size, generator=generator, dtype=torch.float64)


WIDE = flat_config("W", hidden_size=24, attn_heads=4, attn_kv_heads=2, window=99, full_heads=((1,),))
NARROW = flat_config("W", hidden_size=48, attn_heads=8, attn_kv_heads=4, window=5, full_heads=((0, 2),))


@settings(max_examples=40, deadline=None)
@given(blocks(), st.integers(1, 23))
@example(WIDE, 7)
@example(NARROW, 21)
def test_values_and_gradients_are_those_of_the_dense_mixture(config, length):
    results = []
    for kind in (Attention, Dense):
        mixer, x = built(config, kind), text(config, length).requires_grad_()
        y, _ = mixer(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *mixer.parameters()])))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, **TIGHT)


@settings(max_examples=40, deadline=None)
@given(blocks(), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 6))
@example(NARROW, [5, 1, 6], 4)
@torch.no_grad()
def test_pieces_then_single_tokens_equal_one_pass(config, pieces, single):
    mixer, lengths = built(config), [*pieces, *[1] * single]
    x = text(config, sum(lengths))
    whole, (_, expected, seen) = mixer(x)
    state, outputs = None, []
    for piece in x.split(lengths, dim=1):
        y, state = mixer(piece, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, **TIGHT)
    for kept, wanted in zip(state[1], expected, strict=True):
        torch.testing.assert_close((kept.keys, kept.values), (wanted.keys, wanted.values), **TIGHT)
    assert state[2] == seen == sum(lengths)


@settings(max_examples=25, deadline=None)
@given(blocks(), st.integers(1, 40))
@torch.no_grad()
def test_a_head_keeps_what_it_sees(config, length):
    (full,), kv_heads = config.window.full_heads, config.kv_heads
    _, ((k, v, _), (near_k, near_v, _)), _ = built(config)(text(config, length))[1]
    assert k.shape == v.shape == (2, len(full), length, 6)
    assert near_k.shape == near_v.shape == (2, kv_heads - len(full), min(length, config.window.size), 6)
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in (k, v, near_k, near_v))


@torch.no_grad()
def test_only_full_heads_and_their_queries_reach_beyond_the_window():
    mixer, x = built(NARROW), 0.2 * text(NARROW, 12)
    mixer.o_proj = torch.nn.Identity()
    changed = x.clone()
    changed[:, 0] += 1
    moved = (mixer(changed)[0] - mixer(x)[0]).abs().unflatten(-1, (8, 6)).amax((0, 3))
    # The window holds five tokens, so the first is out of sight from the sixth on; two queries a head.
    assert (moved[:5] > 1e-6).all()
    for query in range(8):
        reaches = query // 2 in (0, 2)
        assert (moved[5:, query] > 1e-6).all() if reaches else not moved[5:, query].any()


def test_every_head_is_computed_once(monkeypatch):
    done = Counter()

    def spy(q, k, v, *, window):
        done[window] += q.shape[2]
        assert q.shape[2] == 2 * k.shape[2] == 2 * v.shape[2]
        return softmax_attention(q, k, v, window=window)

    monkeypatch.setattr(attention, "softmax_attention", spy)
    built(NARROW)(text(NARROW, 9))
    assert done == {None: 4, 5: 4}


@torch.no_grad()
def test_a_window_over_the_whole_text_is_a_full_block():
    plain = flat_config("F", hidden_size=24, attn_heads=4, attn_kv_heads=2)
    x = text(WIDE, 31)
    torch.testing.assert_close(built(WIDE)(x)[0], built(plain)(x)[0], **TIGHT)


def test_blocks_have_masks_of_their_own():
    config = flat_config(
        "WFLWW", "gla", hidden_size=24, attn_heads=4, window=3, full_heads=((0,), (), (), (1, 3), ())
    )
    assert [build_mixer(config, index).spans for index in (0, 1, 3, 4)] == [
        [((0,), None), ((1, 2, 3), 3)],
        [((0, 1, 2, 3), None)],
        [((1, 3), None), ((0, 2), 3)],
        [((0, 1, 2, 3), 3)],
    ]


@pytest.mark.parametrize("chunk", [4, 512])
@torch.no_grad()
def test_generation_equals_reading_everything_again(chunk):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "mlp_size": 48, "attn_heads": 4, "init_std": 0.3}
    config = flat_config(
        "LWFW", "gla", num_heads=2, window=5, conv=3, full_heads=((), (1, 2), (), (0,)), **sizes
    )
    model = HybridLM(config).double()
    expected = prompt = torch.randint(40, (3, 13))
    for _ in range(9):
        best = model(expected).logits[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat((expected, best), dim=1)
    assert torch.equal(model.generate(prompt, 9, chunk=chunk), expected)
