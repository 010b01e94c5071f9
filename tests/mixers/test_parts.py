"""What mixers are made of: convolution, norms, rotary positions, gates, attention; what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flat import flat_config

from hybrid.mixers import MIXERS, build_mixer
from hybrid.mixers.attention import Attention
from hybrid.mixers.conv import ShortConv
from hybrid.mixers.hgrn import forget_gate
from hybrid.mixers.norms import GatedRMSNorm, RMSNorm, l2_norm
from hybrid.mixers.rotary import rotate

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("width", [2, 4])
def test_short_convolution_is_a_weighted_sum_of_the_last_tokens(width, silu):
    conv = ShortConv(3, width, silu).double()
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for t in range(9):
        for back in range(min(width, t + 1)):
            expected[:, t] += conv.weight[:, 0, width - 1 - back] * x[:, t - back]
    expected = expected * expected.sigmoid() if silu else expected
    y, tail = conv(x)
    torch.testing.assert_close(y, expected, **TIGHT)
    torch.testing.assert_close(tail, x[:, -(width - 1) :])


def test_short_convolution_of_pieces_shorter_than_its_width():
    conv = ShortConv(3, 4).double()
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    tail, pieces = None, []
    for piece in x.split([1, 2, 1, 3], dim=1):
        y, tail = conv(piece, tail)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), conv(x)[0], **TIGHT)


def test_no_convolution_has_no_parameter_and_leaves_the_activation():
    x = torch.randn(2, 5, 3)
    plain, activated = ShortConv(3, 0, silu=False), ShortConv(3, 0)
    assert not plain.state_dict() and not list(plain.parameters())
    assert torch.equal(plain(x)[0], x)
    torch.testing.assert_close(activated(x)[0], x * x.sigmoid())


def test_norms_compute_in_full_precision_and_keep_the_type():
    x, gate = torch.randn(2, 4, 64) * 30, torch.randn(2, 4, 64)
    norm, gated = RMSNorm(64, 1e-6), GatedRMSNorm(64, 1e-6)
    scaled = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), scaled)
    torch.testing.assert_close(gated(x, gate), scaled * gate * gate.sigmoid())
    half = x.bfloat16()
    exact = RMSNorm(64, 1e-6).double()(half.double())
    assert norm.bfloat16()(half).dtype is torch.bfloat16
    assert torch.equal(norm(half), exact.float().bfloat16())


def test_l2_norm_adds_epsilon_under_the_root():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-3, 4e-3]], dtype=torch.float64)
    expected = torch.stack([row / (row @ row + 1e-6) ** 0.5 for row in x])
    torch.testing.assert_close(l2_norm(x), expected, **TIGHT)


def test_rotary_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(at_q, at_k):
        return (rotate(q, at_q, 10_000.0) * rotate(k, at_k, 10_000.0)).sum()

    torch.testing.assert_close(score(7, 4), score(903, 900), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(score(7, 4), score(7, 5))
    assert torch.equal(rotate(q, 0, 10_000.0), q)


def test_rotary_turns_pairs_of_the_two_halves():
    x = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 4)
    angle = torch.tensor(3.0)
    turned = rotate(x, 3, 10_000.0).flatten()
    torch.testing.assert_close(turned, torch.tensor([angle.cos(), 0, angle.sin(), 0], dtype=torch.float64))


@pytest.mark.parametrize("stretch", [None, (8.0, 1.0, 4.0, 8192.0)])
@pytest.mark.parametrize("start", [0, 1, 4_095, 100_000, 999_990])
def test_rotary_is_exact_in_float64_at_every_position(start, stretch):
    """Pairs of channels as complex numbers, times unit numbers, as in eq. 34 of the paper."""
    x, theta = torch.randn(2, 10, 3, 6, dtype=torch.float64), 500_000.0
    rate = theta ** (-np.arange(0, 6, 2) / 6)
    if stretch is not None:
        factor, low, high, length = stretch
        rate *= np.interp(length * rate / (2 * np.pi), [low, high], [1 / factor, 1])
    turned = rotate(x.float(), start, theta, stretch), rotate(x, start, theta, stretch)
    turn = np.exp(1j * np.outer(np.arange(start, start + 10), rate))[:, None]
    pairs = (x.numpy()[..., :3] + 1j * x.numpy()[..., 3:]) * turn
    expected = torch.from_numpy(np.concatenate((pairs.real, pairs.imag), -1))
    assert [y.dtype for y in turned] == [torch.float32, torch.float64]
    torch.testing.assert_close(turned[1], expected, rtol=0, atol=1e-9)


def test_rotary_has_the_gradients_of_finite_differences():
    x = torch.randn(1, 3, 2, 6, dtype=torch.float64, requires_grad=True)

    def turned(x):
        return rotate(x, 4_095, 10_000.0).sin()

    assert torch.autograd.gradcheck(turned, x)
    assert torch.autograd.gradgradcheck(turned, x)


@pytest.mark.parametrize("bound", [None, 0.0, 1e-30, 0.4, 0.999])
def test_forget_gate_is_finite_everywhere_and_exact_near_one(bound):
    logits = torch.tensor([-200.0, -30.0, -1.0, 0.0, 1.0, 15.0, 200.0], requires_grad=True)
    lower = None if bound is None else torch.full((7,), bound)
    log_f, write = forget_gate(logits, lower)
    exact_bound = 0.0 if lower is None else lower.double()
    exact = exact_bound + (1 - exact_bound) * logits.detach().double().sigmoid()
    torch.testing.assert_close(log_f.exp().double(), exact, rtol=1e-6, atol=2e-7)
    torch.testing.assert_close(write.double(), 1 - exact, rtol=1e-6, atol=1e-12)
    assert log_f[5].item() == pytest.approx(exact[5].log().item(), rel=1e-5)
    (log_f.sum() + write.sum()).backward()
    assert log_f.isfinite().all() and logits.grad.isfinite().all()


def plain_attention(mixer, config, x, window):
    """Softmax attention with explicit loops over heads and positions, rotation in complex numbers."""
    t, d = x.shape[1], config.hidden_size // config.attention.num_heads
    q, k, v = (F.linear(x, p.weight) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    if config.conv != "reference":
        convs = (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)
        padded = (F.pad(p, (0, 0, config.conv - 1, 0)) for p in (q, k, v))
        q, k, v = (
            F.silu(torch.einsum("btdw,dw->btd", p.unfold(1, config.conv, 1), c.weight[:, 0]))
            for p, c in zip(padded, convs, strict=True)
        )
    heads = []
    for head in range(config.attention.num_heads):
        group = head // (config.attention.num_heads // config.kv_heads)
        own, shared = slice(head * d, head * d + d), slice(group * d, group * d + d)
        qh, kh, vh = q[..., own], k[..., shared], v[..., shared]
        if config.attention.qk_norm:
            qh = qh / (qh.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.q_norm.weight
            kh = kh / (kh.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.k_norm.weight
        if mixer.rotary is not None:
            rate = mixer.rotary.theta ** (-torch.arange(d // 2, dtype=torch.float64) * 2 / d)
            angle = torch.outer(torch.arange(t, dtype=torch.float64), rate)
            turn = torch.polar(torch.ones_like(angle), angle)
            qh, kh = (torch.complex(*p.chunk(2, -1)) * turn for p in (qh, kh))
            qh, kh = (torch.cat((p.real, p.imag), -1) for p in (qh, kh))
        rows = []
        for i in range(t):
            first = 0 if window is None else max(0, i - window + 1)
            score = torch.einsum("bd,bjd->bj", qh[:, i], kh[:, first : i + 1]) / d**0.5
            share = score.exp() / score.exp().sum(-1, keepdim=True)
            rows.append(torch.einsum("bj,bjd->bd", share, vh[:, first : i + 1]))
        heads.append(torch.stack(rows, 1))
    return F.linear(torch.cat(heads, -1), mixer.o_proj.weight)


@pytest.mark.parametrize("letter", ["F", "W"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attn_kv_heads": 2, "qk_norm": True},
        {"attn_kv_heads": 1, "rope_theta": None},
        {"conv": 3, "rope_theta": 500.0},
    ],
    ids=["plain", "grouped-normed", "one-kv-no-rope", "conv"],
)
@torch.no_grad()
def test_attention_equals_a_plain_loop(letter, fields):
    window = 4 if letter == "W" else None
    config = flat_config(letter, hidden_size=32, attn_heads=4, window=window, **fields)
    mixer = build_mixer(config, 0).double()
    assert isinstance(mixer, Attention)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.4)
    x = torch.randn(2, 11, 32, dtype=torch.float64)
    expected = plain_attention(mixer, config, x, window)
    # Angles are float32 in the mixer, as in the reference.
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-5, atol=1e-5)


def test_attention_has_the_reference_names():
    config = flat_config("F", hidden_size=32, attn_heads=4, attn_kv_heads=2, qk_norm=True, conv=4)
    shapes = {name: tuple(value.shape) for name, value in build_mixer(config, 0).state_dict().items()}
    assert shapes == {
        "q_proj.weight": (32, 32),
        "k_proj.weight": (16, 32),
        "v_proj.weight": (16, 32),
        "o_proj.weight": (32, 32),
        "q_norm.weight": (8,),
        "k_norm.weight": (8,),
        "q_conv1d.weight": (32, 1, 4),
        "k_conv1d.weight": (16, 1, 4),
        "v_conv1d.weight": (16, 1, 4),
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            lambda: flat_config("L", "hgrn", head_v_dim=8),
            "hgrn has a vector state and no heads; head_v_dim must be",
        ),
        (
            lambda: flat_config("L", "gla", hidden_size=64, num_heads=5),
            "num_heads must divide 32 channels; got 5",
        ),
        (lambda: flat_config("L", "retnet", num_heads=2, head_k_dim=7), "head_k_dim must be even; got 7"),
        (lambda: flat_config("P", "retnet", num_heads=2, head_k_dim=6), "head_k_dim must be even; got 3"),
    ],
)
def test_mixers_refuse_heads_that_do_not_fit(config, message):
    with pytest.raises(ValueError) as error:
        config()
    assert message in str(error.value)


@pytest.mark.parametrize("mixer", MIXERS)
def test_gates_and_decays_stay_in_float32_under_bfloat16(mixer, monkeypatch):
    heads = {} if mixer == "hgrn" else {"num_heads": 2}
    heads |= {"head_k_dim": 8} if mixer == "gated_deltanet" else {}
    layer = build_mixer(flat_config("LL", mixer, hidden_size=32, **heads), 1)
    module = __import__(type(layer).__module__, fromlist=["_"])
    name = next(n for n in ("gated_scan", "gated_outer", "gated_delta") if hasattr(module, n))
    kernel, seen = getattr(module, name), {}

    def spy(*args, **kwargs):
        gates = {"gated_scan": args[1:2], "gated_outer": args[3:4], "gated_delta": args[3:5]}[name]
        seen["types"] = {gate.dtype for gate in gates if gate is not None}
        return kernel(*args, **kwargs)

    monkeypatch.setattr(module, name, spy)
    x = torch.randn(2, 6, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x)
    assert (seen["types"], y.dtype) == ({torch.float32}, torch.bfloat16)
    assert layer.bfloat16()(x.bfloat16())[0].dtype is torch.bfloat16
    assert seen["types"] == {torch.float32}


def test_a_lower_bound_that_rounding_carried_above_one_forgets_nothing():
    """The bounds of deep models are sums of float32 shares; a gate above 1 would let the state grow."""
    log_f, write = forget_gate(torch.randn(1, 3, 4), torch.full((4,), 1 + 2e-7))
    assert (log_f <= 0).all() and (write >= 0).all()
