"""The paper's linear mixers against flash-linear-attention's own layers and models.

Their forward code runs as it is; only the leaves that need a GPU (Triton kernels, fused norms and
convolutions) are replaced by flash-linear-attention's naive functions or a plain formula.
"""

import warnings
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from flat import flat_config

from hybrid.mixers import build_mixer
from hybrid.models.hybrid_lm import HybridLM

HIDDEN = 32
WIDTHS = {
    "hgrn": {},
    "retnet": {"num_heads": 2},
    "gla": {"num_heads": 2},
    "hgrn2": {"num_heads": 2},
    "deltanet": {"num_heads": 2},
    "gated_deltanet": {"num_heads": 2, "head_k_dim": 8},
}


def our_config(mixer, conv, layout="LLL"):
    return flat_config(
        layout, mixer, vocab_size=40, hidden_size=HIDDEN, mlp_size=48, conv=conv, **WIDTHS[mixer]
    )


def rms(x, weight, eps):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def fused_norm(self, x, residual=None, prenorm=False):
    x = x if residual is None else x + residual
    y = rms(x, self.weight, self.eps)
    return (y, x) if prenorm else y


def unit(x):
    return x / torch.sqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def plain_conv(self, x, **_):
    y = F.conv1d(x.mT, self.weight, padding=self.padding, groups=self.groups)[..., : x.shape[1]].mT
    return (F.silu(y) if self.activation else y), None


def complex_rotary(self, q, k, **_):
    def turn(x):
        half = x.shape[-1] // 2
        rate = self.base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * rate
        y = torch.complex(x[..., :half].double(), x[..., half:].double())
        y = y * torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.cat((y.real, y.imag), -1).to(x)

    return turn(q), turn(k)


def head_first(op):
    def call(q, k, v, *rest):
        o = op(*(x.transpose(1, 2) for x in (q, k, v, *rest)))
        return (o[0] if isinstance(o, tuple) else o).transpose(1, 2), None

    return call


@pytest.fixture(scope="module")
def fla():
    """flash-linear-attention with its GPU leaves replaced; undone afterwards."""
    warnings.filterwarnings("ignore")
    naive = {n: import_module(f"fla.ops.{n}.naive") for n in ("hgrn", "gla", "retention", "delta_rule")}
    gated = import_module("fla.ops.gated_delta_rule.naive").naive_recurrent_gated_delta_rule
    delta = head_first(naive["delta_rule"].delta_rule_recurrence)
    retention = head_first(naive["retention"].naive_retention)

    def gated_delta(q, k, v, g, beta, A_log, dt_bias, **_):
        log_decay = -A_log.exp() * F.softplus(g + dt_bias)
        return gated(unit(q), unit(k), v, beta.sigmoid(), log_decay)

    modules, layers = import_module("fla.modules"), "fla.layers."
    norm_eps_of_the_fused_linear = 1e-5
    leaves = [
        (modules.ShortConvolution, "forward", plain_conv),
        (modules.RotaryEmbedding, "forward", complex_rotary),
        (modules.RMSNorm, "forward", fused_norm),
        (
            modules.FusedRMSNormGated,
            "forward",
            lambda self, x, g: rms(x, self.weight, self.eps) * g * g.sigmoid(),
        ),
        (layers + "hgrn", "swiglu", lambda x, y: F.silu(x) * y),
        (layers + "hgrn2", "swish", F.silu),
        (
            layers + "hgrn2",
            "rms_norm_linear",
            lambda x, w, _, o, __: F.linear(rms(x, w, norm_eps_of_the_fused_linear), o),
        ),
        (layers + "hgrn", "fused_recurrent_hgrn", lambda x, g, **_: naive["hgrn"].naive_recurrent_hgrn(x, g)),
        (
            layers + "hgrn2",
            "fused_recurrent_gla",
            lambda q, k, v, gk, **_: naive["gla"].naive_recurrent_gla(q, k, v, gk),
        ),
        (
            layers + "gla",
            "fused_recurrent_gla",
            lambda q, k, v, gk, **_: naive["gla"].naive_recurrent_gla(q, k, v, gk),
        ),
        (
            layers + "multiscale_retention",
            "fused_recurrent_retention",
            lambda q, k, v, **_: retention(q, k, v),
        ),
        (
            layers + "delta_net",
            "fused_recurrent_delta_rule",
            lambda q, k, v, beta, **_: delta(unit(q), unit(k), v, beta),
        ),
        (layers + "gated_deltanet", "fused_recurrent_gated_delta_rule", gated_delta),
        (import_module("fla.layers").GatedDeltaNet, "_use_fused_qkv_conv", lambda *_, **__: False),
        ("fla.modules.mlp", "swiglu", lambda x, y: F.silu(x) * y),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for where, name, body in leaves:
            patch.setattr(import_module(where) if isinstance(where, str) else where, name, body)
        yield import_module("fla")


def fla_layer(fla, mixer, conv):
    shared = {"hidden_size": HIDDEN, "use_short_conv": bool(conv), "conv_size": conv or 4, "norm_eps": 1e-6}
    shared["layer_idx"] = 1
    layers = fla.layers
    match mixer:
        case "hgrn":
            return layers.HGRNAttention(**shared)
        case "hgrn2":
            return layers.HGRN2Attention(num_heads=2, expand_ratio=None, **shared)
        case "retnet":
            return layers.MultiScaleRetention(num_heads=2, **shared)
        case "gla":
            return layers.GatedLinearAttention(num_heads=2, **shared)
        case "deltanet":
            return layers.DeltaNet(num_heads=2, **shared)
        case "gated_deltanet":
            return layers.GatedDeltaNet(num_heads=2, head_dim=8, **shared)


def fla_model(fla, mixer, conv):
    shared = {
        "vocab_size": 40,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "use_cache": False,
        "fuse_swiglu": False,
        "fuse_cross_entropy": False,
        "use_short_conv": bool(conv),
    }
    kinds = {
        "hgrn": ("HGRN", {}),
        "hgrn2": ("HGRN2", {"num_heads": 2, "expand_ratio": None}),
        "retnet": ("RetNet", {"num_heads": 2}),
        "gla": ("GLA", {"num_heads": 2}),
        "deltanet": ("DeltaNet", {"num_heads": 2}),
        "gated_deltanet": ("GatedDeltaNet", {"num_heads": 2, "head_dim": 8}),
    }
    name, own = kinds[mixer]
    config = getattr(fla.models, name + "Config")(**shared, **own)
    return getattr(fla.models, name + "ForCausalLM")(config)


def widen(module, seed=0):
    """Parameters large enough that every gate and norm matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


@pytest.mark.parametrize("conv", [0, 4, 3])
@pytest.mark.parametrize("mixer", WIDTHS)
@torch.no_grad()
def test_layer_equals_flash_linear_attention(fla, mixer, conv):
    torch.manual_seed(0)
    theirs = fla_layer(fla, mixer, conv).eval()
    ours = build_mixer(our_config(mixer, conv or "none"), 1)
    for name, parameter in ours.named_parameters():
        if "conv" in name or name in ("A_log", "dt_bias"):
            torch.nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    widen(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 21, HIDDEN)
    bound = {"lower_bound": torch.rand(HIDDEN) * 0.8} if mixer in ("hgrn", "hgrn2") else {}
    expected = theirs(x, **bound)[0]
    assert expected.abs().mean() > 0.05
    torch.testing.assert_close(ours(x, **bound)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", WIDTHS)
@torch.no_grad()
def test_model_equals_flash_linear_attention(fla, mixer):
    conv = 4 if "deltanet" in mixer else 0
    torch.manual_seed(0)
    theirs = fla_model(fla, mixer, conv).eval()
    ours = HybridLM(our_config(mixer, "reference"))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    widen(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ids = torch.randint(0, 40, (2, 21))
    expected = theirs(ids).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mixer", WIDTHS)
def test_initialisation_has_the_spread_of_the_reference(fla, mixer):
    torch.manual_seed(0)
    theirs = dict(fla_model(fla, mixer, 4 if "deltanet" in mixer else 0).named_parameters())
    torch.manual_seed(1)
    for name, parameter in HybridLM(our_config(mixer, "reference")).named_parameters():
        other = theirs[name].detach()
        if (other.dim() == 1 and other.unique().numel() == 1) or not other.any():
            torch.testing.assert_close(parameter.detach(), other)
        elif name.endswith("A_log"):
            assert parameter.max() <= torch.tensor(16.0).log()
        elif name.endswith("dt_bias"):
            step = F.softplus(parameter)
            assert step.min() >= 0.00099 and step.max() <= 0.101
        else:
            spread = 5 / (2 * other.numel()) ** 0.5
            assert parameter.std().item() == pytest.approx(0.02, rel=spread), name
            assert other.std().item() == pytest.approx(0.02, rel=spread), name
