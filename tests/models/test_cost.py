"""Costs of a config against built models, a number that counts its operations, and PyTorch's counter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flat import flat_config
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from hybrid.config import MIXERS, MLPS, ModelConfig
from hybrid.models import cost
from hybrid.models.hybrid_lm import HybridLM
from hybrid.papers.published import table, table7_flops

WIDTHS = {"hgrn": {}, "hgrn2": {"head_k_dim": 16}, "gated_deltanet": {"num_heads": 2, "head_k_dim": 8}}


@st.composite
def configs(draw) -> ModelConfig:
    mixer = draw(st.sampled_from(sorted(MIXERS)))
    letters = draw(st.text("FWLPfwlpm", min_size=1, max_size=4))
    heads = draw(st.sampled_from([1, 2, 4]))
    kv_heads = draw(st.sampled_from([None, 1, 2, heads] if heads > 1 else [None, 1]))
    masks = st.sets(st.integers(0, (kv_heads or heads) - 1), max_size=(kv_heads or heads) - 1)
    full_heads = tuple(sorted(draw(masks)) if letter in "Ww" else () for letter in letters)
    return flat_config(
        letters,
        mixer,
        vocab_size=draw(st.integers(3, 40)),
        hidden_size=draw(st.sampled_from([32, 64])),
        mlp_size=draw(st.one_of(st.none(), st.integers(1, 70))),
        mlp_kind=draw(st.sampled_from(sorted(MLPS))),
        attn_heads=heads,
        attn_kv_heads=kv_heads,
        window=draw(st.integers(1, 9)) if {"W", "w"} & set(letters) else None,
        full_heads=full_heads if any(full_heads) else None,
        attn_head_dim=draw(st.sampled_from([None, 8, 20])),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        conv=draw(st.sampled_from(["reference", "none", 2, 4])),
        tie_embeddings=draw(st.booleans()),
        **WIDTHS.get(mixer, {"num_heads": draw(st.sampled_from([1, 2, 4]))}),
    )


def built(config: ModelConfig) -> HybridLM:
    with torch.device("meta"):
        return HybridLM(config)


@settings(max_examples=60, deadline=None)
@given(configs())
def test_parameters_equal_the_built_model(config):
    model = built(config)
    assert cost.parameters(config) == sum(p.numel() for p in model.parameters())
    mlps = sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    assert cost.parameters_by_part(config)["mlps"] == mlps


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("hidden", [1024, 2048], ids=["340M", "1.3B"])
@pytest.mark.parametrize("layout", ["L" * 24, "LLF" * 8], ids=["pure", "3:1"])
def test_parameters_at_the_sizes_of_the_paper(mixer, hidden, layout):
    config = flat_config(layout, mixer, hidden_size=hidden)
    assert cost.parameters(config) == sum(p.numel() for p in built(config).parameters())


def test_parameters_of_a_released_checkpoint():
    """m-a-p/1.3B-100B-GatedDeltaNet-pure stores 5,865,376,000 bytes of float32, 24 x 8 of the numbers
    in a tensor `attn.D` that later versions of the mixer dropped."""
    released = flat_config(
        "L" * 24, "gated_deltanet", hidden_size=2048, num_heads=8, head_k_dim=256, head_v_dim=256
    )
    assert 4 * (cost.parameters(released) + 24 * 8) == 5_865_376_000


def state_tensors(state):
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, (list, tuple)):
        for part in state:
            yield from state_tensors(part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=25, deadline=None)
@given(config=configs(), length=st.integers(1, 12))
def test_bytes_equal_those_of_a_model_that_has_read_a_text(dtype, config, length):
    model = HybridLM(config).to(dtype)
    with torch.no_grad():
        state = model(torch.zeros(1, length, dtype=torch.long)).state
    measured = sum(t.numel() * t.element_size() for t in state_tensors(state) if t.is_floating_point())
    counted = cost.state_bytes(config, dtype.itemsize) + cost.cache_bytes(config, length, dtype.itemsize)
    assert counted == measured


def test_what_grows_with_the_length():
    sizes = dict(hidden_size=64, num_heads=4, attn_heads=4, window=8)
    at = {
        letter: [
            cost.cache_bytes(
                flat_config(letter, "gla", **(sizes | ({} if letter == "W" else {"window": None}))), n
            )
            for n in (4, 8, 16)
        ]
        for letter in "LWF"
    }
    assert at["L"] == [0, 0, 0]
    assert at["W"] == [4 * 256, 8 * 256, 8 * 256]
    assert at["F"] == [4 * 256, 8 * 256, 16 * 256]


class Counting:
    """A number that counts the multiplications and additions it takes part in."""

    done = 0

    def _one(self, other):
        if isinstance(other, np.ndarray):
            return NotImplemented
        Counting.done += 1
        return Counting()

    __mul__ = __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = _one


def numbers(*shape: int) -> np.ndarray:
    return np.array([Counting() for _ in range(int(np.prod(shape)))], dtype=object).reshape(shape)


def one_step(mixer: str, k_dim: int, v_dim: int) -> int:
    """Operations of one token, from the update rules of 2507.06457, Table 1, one head."""
    q, k, v, a = numbers(k_dim), numbers(k_dim), numbers(v_dim), Counting()
    S, per_key, beta = numbers(k_dim, v_dim), numbers(k_dim), Counting()
    Counting.done = 0
    if mixer == "retnet":
        S = a * S + np.outer(k, v)
    elif mixer == "mamba2":
        S = a * S + np.outer(a * k, v)
    elif mixer == "gla":
        S = per_key[:, None] * S + np.outer(k, v)
    elif mixer == "hgrn2":
        S = per_key[:, None] * S + np.outer(1 - per_key, v)
    elif mixer == "deltanet":
        S = S + np.outer(k, beta * (v - k @ S))
    elif mixer == "gated_deltanet":
        S = a * S
        S = S + np.outer(k, beta * (v - k @ S))
    q @ S
    return Counting.done


@pytest.mark.parametrize("mixer", sorted(set(MIXERS) - {"hgrn"}))
def test_passes_over_a_matrix_state(mixer):
    """The coefficient of K x V: what is left when both grow by one."""
    n = {(i, j): one_step(mixer, 4 + i, 6 + j) for i in (0, 1) for j in (0, 1)}
    assert n[1, 1] - n[1, 0] - n[0, 1] + n[0, 0] == MIXERS[mixer].flops_per_element


def test_passes_over_a_vector_state():
    h, a, x, read = numbers(7), numbers(7), numbers(7), numbers(7)
    Counting.done = 0
    (a * h + (1 - a) * x) * read
    assert MIXERS["hgrn"].flops_per_element * 7 == Counting.done


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 40), window=st.integers(1, 50))
def test_attention_pairs_against_a_mask(length, window):
    ahead = np.arange(length)[:, None] - np.arange(length)
    full, wide = (ahead >= 0).sum(), ((ahead >= 0) & (ahead < window)).sum()
    for letter, pairs in (("F", full), ("W", wide)):
        config = flat_config(letter, hidden_size=64, attn_heads=4, window=window if letter == "W" else None)
        assert cost.flops_by_part(config, length)["state"] * length == pytest.approx(4 * 64 * pairs)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.sets(st.integers(0, 3), min_size=1, max_size=3))
def test_a_full_head_costs_what_it_sees(length, window, full):
    heads = {"attn_heads": 8, "attn_kv_heads": 4, "attn_head_dim": 10}
    config = flat_config("WWF", hidden_size=64, window=window, full_heads=((), sorted(full), ()), **heads)
    ahead = np.arange(length)[:, None] - np.arange(length)
    pairs = keys = 0
    for head in range(8):
        for block in range(3):
            reach = length if block == 2 or (block == 1 and head // 2 in full) else window
            pairs += ((ahead >= 0) & (ahead < reach)).sum()
            keys += min(length, reach) * (head % 2)
    assert cost.flops_by_part(config, length)["state"] * length == pytest.approx(4 * 10 * pairs)
    assert cost.cache_bytes(config, length) == 2 * 2 * 10 * keys
    plain_windows = replace(config, window=replace(config.window, full_heads=None))
    masked, plain = (cost.flops_by_part(c, length) for c in (config, plain_windows))
    assert masked | {"state": 0} == plain | {"state": 0}
    assert cost.parameters(config) == cost.parameters(plain_windows)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize(("conv", "head"), [("none", None), (4, None), (4, 6)])
def test_flops_against_the_counter_of_pytorch(mixer, conv, head):
    config = flat_config(
        "LFL", mixer, vocab_size=50, hidden_size=64, attn_heads=4, attn_kv_heads=2, conv=conv,
        attn_head_dim=head, **WIDTHS.get(mixer, {"num_heads": 4}),
    )  # fmt: skip
    model, length = HybridLM(config), 16
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long))
    counts = counter.get_flop_counts()
    prefix = type(model).__name__ + "."
    products = sum(sum(counts[prefix + name].values()) for name in linear)
    parts = cost.flops_by_part(config, length)
    assert products == length * (parts["projections"] + parts["mlps"] + parts["head"])
    of_conv = sum(n for op, n in counts["Global"].items() if "convolution" in str(op))
    assert of_conv == length * parts["convolutions"]


def test_the_parts_add_up():
    config = flat_config("LLF", "retnet", hidden_size=64, attn_heads=4)
    parts = cost.flops_by_part(config, 32)
    assert cost.flops_per_token(config, 32) == sum(parts.values())
    assert cost.mixer_flops_per_token(config, 32) == sum(parts.values()) - parts["mlps"] - parts["head"]
    assert parts["convolutions"] == 0


def sized(config: ModelConfig, size: int) -> ModelConfig:
    return replace(config, mlp=replace(config.mlp, size=size))


@settings(max_examples=50, deadline=None)
@given(configs(), st.integers(1, 400))
def test_match_parameters_finds_the_closest(config, size):
    assume(config.mlp is not None)
    step = cost.parameters(sized(config, 2)) - cost.parameters(sized(config, 1))
    target = cost.parameters(sized(config, size))
    assert cost.match_parameters(config, target).mlp.size == size
    try:
        off = abs(cost.parameters(cost.match_parameters(config, target + step // 3)) - target)
    except ValueError:
        assert step // 3 > cost.TOLERANCE * (target + step // 3)
    else:
        assert off == 0


@pytest.mark.parametrize("multiple", [1, 8, 24])
def test_no_other_multiple_comes_closer(multiple):
    config = flat_config("LLF", "gla", vocab_size=1000, hidden_size=128, attn_heads=4)
    for target in (1_000_000, 1_234_567, 2_000_000):
        found = cost.match_parameters(config, target, multiple).mlp.size
        assert found % multiple == 0
        rest = cost.parameters(config) - 3 * 3 * 128 * 512
        off = {size: abs(rest + 3 * 3 * 128 * size - target) for size in range(multiple, 3000, multiple)}
        assert off[found] == min(off.values())


def test_match_parameters_refuses_what_is_out_of_reach():
    config = flat_config("LLLF", "gla", vocab_size=1000, hidden_size=64, attn_heads=4)
    with pytest.raises(ValueError, match=r"within 2% of 1,000 parameters; closest: [0-9,]+ at width 1"):
        cost.match_parameters(config, 1000)


def test_table7_gives_the_ends_of_the_axes_of_figure_6():
    read = table("figures_readable").set_index("quantity")["value"].astype(str)
    assert 1024 * table7_flops("hgrn", 1024) == int(read["hgrn_at_1024_from_table7_d2048_one_layer"])
    assert 65536 * table7_flops("softmax_attention", 65536) == int(
        read["transformer_at_65536_from_table7_d2048_one_layer"]
    )


@pytest.mark.parametrize(
    ("mixer", "flops"),
    [("softmax_attention", 2 * 512 * 64), ("hgrn", 5 * 64), ("retnet_lightning", 5 * 64 * 64 / 4),
     ("gla", 7 * 64 * 64 / 4), ("hgrn2_metala", 7 * 64 * 64 / 4), ("deltanet", 8 * 64 * 64 / 4),
     ("gated_deltanet", 8 * 64 * 64 / 4)],
)  # fmt: skip
def test_table7_formulas(mixer, flops):
    assert table7_flops(mixer, 512, d_model=64, heads=4) == flops


def test_wrong_input_is_named():
    config = flat_config("F", hidden_size=64, attn_heads=4)
    with pytest.raises(ValueError, match="length must be a whole number of at least 1; got 0"):
        cost.flops_per_token(config, 0)
    with pytest.raises(ValueError, match=r"length must be a whole number of at least 1; got 2\.5"):
        cost.cache_bytes(config, 2.5)
    with pytest.raises(ValueError, match=r"no mixer 'lstm' in Table 7"):
        table7_flops("lstm", 8)
    with pytest.raises(ValueError, match=r"no published table 'table9'; there are: .*table7_flops"):
        table("table9")


def test_every_published_value_says_where_it_is_printed():
    for name in ("table2_lm_340m", "table5_recall_by_ratio", "table7_flops", "figures_readable"):
        assert table(name)[["paper", "version", "table"]].notna().all(axis=None)
