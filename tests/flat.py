"""A model's config in one line, the fields of its parts side by side."""

from hybrid.config import (
    AttentionConfig,
    LinearConfig,
    MLPConfig,
    ModelConfig,
    RotaryConfig,
    StartConfig,
    WindowConfig,
)

LINEAR = ("num_heads", "head_k_dim", "head_v_dim", "num_groups")
ATTENTION = {"attn_heads": "num_heads", "attn_kv_heads": "num_kv_heads", "attn_head_dim": "head_dim"}
ATTENTION |= {name: name for name in ("qkv_bias", "qk_norm", "qk_norm_eps")}
MLP = {"mlp_size": "size", "mlp_kind": "kind"}


def parts(layout, mixer="gated_deltanet", **flat) -> dict:
    """Keyword arguments of `ModelConfig`; positions are those of all attention, `window` is its size."""
    theta, stretch = flat.pop("rope_theta", 10_000.0), flat.pop("rope_stretch", None)
    rotary = None if theta is None else RotaryConfig(theta, stretch)
    linear = {name: flat.pop(name) for name in LINEAR if name in flat}
    attention = {ATTENTION[name]: flat.pop(name) for name in ATTENTION if name in flat}
    mlp = {MLP[name]: flat.pop(name) for name in MLP if name in flat}
    size, full_heads = flat.pop("window", None), flat.pop("full_heads", None)
    return {
        "layout": layout,
        "linear": LinearConfig(mixer, **linear),
        "attention": AttentionConfig(**attention, rotary=rotary),
        "window": None if size is None else WindowConfig(size, full_heads, rotary),
        "mlp": MLPConfig(**mlp),
        "start": StartConfig(flat.pop("init_std", 0.02)),
        **flat,
    }


def flat_config(*given, **flat) -> ModelConfig:
    """The config of `parts`."""
    return ModelConfig(**parts(*given, **flat))
