"""Checkpoints: flash-linear-attention's own classes read ours, we read theirs, and bad files are named."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from fla_stub import models
from flat import flat_config
from safetensors.torch import load_file, save_file

from hybrid.checkpoints.checkpoint import load, save
from hybrid.checkpoints.fla_config import NotExpressible, family_of, to_fla
from hybrid.config import ModelConfig
from hybrid.models.hybrid_lm import HybridLM

HEADS = {
    "hgrn": {},
    "retnet": {"num_heads": 2},
    "gla": {"num_heads": 2, "head_k_dim": 12, "head_v_dim": 20},
    "hgrn2": {"num_heads": 2},
    "deltanet": {"num_heads": 4},
    "gated_deltanet": {"num_heads": 3, "head_k_dim": 16, "head_v_dim": 24},
}
MAMBA = {"num_heads": 4, "head_k_dim": 12, "head_v_dim": 32}
SMALL = {"vocab_size": 50, "hidden_size": 64, "mlp_size": 96, "attn_heads": 4, "attn_kv_heads": 2}


def config_of(mixer: str, layout: str, **changes) -> ModelConfig:
    return flat_config(layout=layout, mixer=mixer, **(SMALL | HEADS.get(mixer, MAMBA) | changes))


CONFIGS = {}
for _mixer in HEADS:
    CONFIGS[f"{_mixer}-pure"] = config_of(_mixer, "LL")
    CONFIGS[f"{_mixer}-hybrid"] = config_of(_mixer, "LLLF")
    CONFIGS[f"{_mixer}-windows"] = config_of(_mixer, "LWLF", window=8, rope_theta=5e4)
CONFIGS["mamba2"] = config_of("mamba2", "ll")
CONFIGS["mamba2-groups"] = config_of("mamba2", "ll", num_groups=2, conv=3)
CONFIGS["transformer"] = config_of("gla", "FF", qk_norm=True)
CONFIGS["transformer-bias"] = config_of("gla", "FF", qkv_bias=True)
CONFIGS["hybrid-bias"] = config_of("gla", "LWLF", window=8, qkv_bias=True)
CONFIGS["transformer-window"] = config_of("gla", "WW", window=8)
CONFIGS["no-convolution"] = config_of("gated_deltanet", "LLF", conv="none")
CONFIGS["convolution"] = config_of("gla", "LL", conv=3)
CONFIGS["tied"] = config_of("deltanet", "LF", tie_embeddings=True)
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.fixture
def fla(monkeypatch):
    return models(monkeypatch)


def fla_class(fla, config: ModelConfig):
    return getattr(fla, to_fla(config)["architectures"][0])


def drawn(config: ModelConfig, seed: int = 0) -> HybridLM:
    """A model whose every parameter is random, lower bounds and norms included."""
    torch.manual_seed(seed)
    model = HybridLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@every_config
def test_fla_builds_and_loads_what_we_save(fla, tmp_path, config):
    ours = drawn(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(ours, tmp_path)
    cls = fla_class(fla, config)
    theirs = cls(cls.config_class.from_pretrained(tmp_path))
    stored = load_file(tmp_path / "model.safetensors")
    assert ("lm_head.weight" in stored) is not config.tie_embeddings
    if config.tie_embeddings:
        theirs.tie_weights()
        stored["lm_head.weight"] = stored["model.embeddings.weight"]
    theirs.load_state_dict(stored, strict=True)
    assert_same(dict(theirs.named_parameters()), in_file(ours))


def in_file(ours: HybridLM) -> dict:
    """Our parameters under fla's names."""
    rename = family_of(ours.config).in_file
    return {rename(name): parameter for name, parameter in ours.named_parameters()}


@every_config
def test_we_load_what_fla_saves(fla, tmp_path, config):
    cls = fla_class(fla, config)
    torch.manual_seed(1)
    theirs = cls(cls.config_class(**to_fla(config)))
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert_same(in_file(ours), dict(theirs.named_parameters()))
    assert to_fla(ours.config) == to_fla(config)


@every_config
def test_round_trip_is_bit_equal(tmp_path, config):
    ours = drawn(config)
    save(ours, tmp_path)
    again = load(tmp_path)
    assert_same(again.state_dict(), ours.state_dict())
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(again(tokens).logits, ours(tokens).logits)
    assert (again.lm_head.weight is again.model.embeddings.weight) is config.tie_embeddings
    assert all(p.requires_grad and not p.is_meta for p in again.parameters())


def test_dtype_is_the_files_unless_asked(tmp_path):
    save(drawn(CONFIGS["tied"]).bfloat16(), tmp_path)
    assert {p.dtype for p in load(tmp_path).parameters()} == {torch.bfloat16}
    again = load(tmp_path, dtype=torch.float64)
    assert {p.dtype for p in again.parameters()} == {torch.float64}
    assert again.lm_head.weight is again.model.embeddings.weight


def test_training_a_loaded_model_leaves_the_file_alone(tmp_path):
    save(drawn(CONFIGS["gla-pure"]), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = load(tmp_path)
    assert str(tmp_path / "model.safetensors") in Path("/proc/self/maps").read_text()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    save(model, tmp_path)
    assert_same(load(tmp_path).state_dict(), model.state_dict())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    first = drawn(CONFIGS["gla-pure"])
    save(first, tmp_path)

    def torn(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", torn)
    with pytest.raises(OSError, match="no space left"):
        save(drawn(CONFIGS["gla-pure"], seed=1), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(load(tmp_path).state_dict(), first.state_dict())


def test_sharded(fla, tmp_path):
    config = CONFIGS["gated_deltanet-hybrid"]
    cls = fla_class(fla, config)
    theirs = cls(cls.config_class(**to_fla(config)))
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert_same(load(tmp_path).state_dict(), theirs.state_dict())
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=shards[1].name):
        load(tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path):
    save(drawn(CONFIGS["gla-pure"]), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        load(tmp_path / "model")


def edit(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_legacy_zeros_are_named_and_left_out(tmp_path):
    ours = drawn(CONFIGS["gated_deltanet-hybrid"])
    save(ours, tmp_path)
    name = "model.layers.1.attn.D"
    edit(tmp_path, lambda tensors: tensors.update({name: torch.zeros(3)}))
    with pytest.warns(UserWarning, match=name):
        again = load(tmp_path)
    assert_same(again.state_dict(), ours.state_dict())
    edit(tmp_path, lambda tensors: tensors.update({name: torch.tensor([0.0, 1e-8, 0.0])}))
    with pytest.raises(ValueError, match=name):
        load(tmp_path)


def test_missing_and_misshaped_tensors_are_named_with_both_shapes(tmp_path):
    save(drawn(CONFIGS["gla-pure"]), tmp_path)

    def break_two(tensors):
        del tensors["model.layers.0.attn.gk_proj.1.bias"]
        tensors["model.norm.weight"] = torch.ones(63)

    edit(tmp_path, break_two)
    with pytest.raises(ValueError) as error:
        load(tmp_path)
    assert "model.layers.0.attn.gk_proj.1.bias is missing, needs (24,)" in str(error.value)
    assert "model.norm.weight is (63,), needs (64,)" in str(error.value)


def test_two_versions_of_a_tied_matrix_are_refused(tmp_path):
    save(drawn(CONFIGS["tied"]), tmp_path)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embeddings.weight"].clone()}))
    load(tmp_path)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embeddings.weight"] + 1}))
    with pytest.raises(ValueError, match="tied"):
        load(tmp_path)


def test_a_cut_file_is_named(tmp_path):
    save(drawn(CONFIGS["gla-pure"]), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load(tmp_path)


def test_pickles_and_remote_code_are_not_read(tmp_path):
    save(drawn(CONFIGS["gla-pure"]), tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    load(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load(tmp_path)


INEXPRESSIBLE = {
    "convolution on attention": (config_of("gla", "LF", conv=4), "short convolution on attention"),
    "convolution on retnet": (config_of("retnet", "LL", conv=4), "short convolution on retnet"),
    "qk_norm in a hybrid": (config_of("gla", "LF", qk_norm=True), "qk_norm"),
    "wide heads": (config_of("gla", "LF", attn_head_dim=20), r"hidden_size / num_heads \(head_dim\)"),
    "another epsilon": (config_of("gla", "FF", qk_norm=True, qk_norm_eps=1e-6), "qk_norm_eps than 1e-05"),
    "no positions": (config_of("gla", "LF", rope_theta=None), "rotary"),
    "stretched positions": (config_of("gla", "LF", rope_stretch=(8, 1, 4, 64)), "stretched"),
    "two kinds of attention alone": (config_of("gla", "FW", window=4), "sliding-window"),
    "full heads in a hybrid": (config_of("gla", "LW", window=4, full_heads=((), (1,))), r"\(full_heads\)"),
    "full heads alone": (config_of("gla", "WW", window=4, full_heads=((0,), ())), r"\(full_heads\)"),
    "wide retnet keys": (config_of("retnet", "L", num_heads=1, head_k_dim=258), "256"),
    "hgrn2 values": (config_of("hgrn2", "L", head_v_dim=16), "hgrn2 values"),
}


@pytest.mark.parametrize("config, reason", INEXPRESSIBLE.values(), ids=INEXPRESSIBLE.keys())
def test_what_fla_cannot_express_is_ours_and_says_so(tmp_path, config, reason):
    with pytest.raises(NotExpressible, match=reason) as refused:
        to_fla(config)
    assert len(refused.value.reasons) == 1
    ours = drawn(config)
    with pytest.warns(UserWarning, match=reason):
        save(ours, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "hybrid_lm"
    again = load(tmp_path)
    assert again.config == config
    assert_same(again.state_dict(), ours.state_dict())
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(again(tokens).logits, ours(tokens).logits)


def test_own_config_with_an_unknown_field_is_refused(tmp_path):
    with pytest.warns(UserWarning):
        save(drawn(INEXPRESSIBLE["no positions"][0]), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": 3}))
    with pytest.raises(ValueError, match="colour"):
        load(tmp_path)


# Interpreted, each head of a linear block takes seconds. A first block alone has no lower bound.
SHORT = {
    mixer: config_of(mixer, "LLF" if mixer.startswith("hgrn") else "LF", **(heads and {"num_heads": 2}))
    for mixer, heads in HEADS.items()
}
FUSED = CONFIGS if torch.cuda.is_available() else SHORT


@pytest.mark.parametrize("config", FUSED.values(), ids=FUSED.keys())
def test_fused_model_is_flas_model(fla, fused_device, tmp_path, config):
    """flash-linear-attention's classes as they are, on the kernels and the weights of ours: logits, and the
    gradients of every parameter; then reading a text in two parts."""
    torch.manual_seed(0)
    ours = HybridLM(config)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save(ours, tmp_path)
    ours = ours.to(fused_device)
    theirs = fla_class(fla, config).from_pretrained(tmp_path, dtype=torch.float32).to(fused_device)
    tokens = torch.randint(config.vocab_size, (1, 19), device=fused_device)
    weights = torch.randn(1, 19, config.vocab_size, device=fused_device)
    results = []
    for model in (ours.train(), theirs.train()):
        logits = model(tokens).logits
        (logits * weights).sum().backward()
        results.append({"logits": logits.detach()} | {n: p.grad for n, p in model.named_parameters()})
    mine, expected = results
    assert mine.keys() == expected.keys()
    tolerance = 5e-3 if fused_device == "cuda" else 1e-4
    for name, other in expected.items():
        error = (mine[name] - other).abs().max() / other.abs().max()
        assert error <= tolerance, f"{name} differs by {error:.1e} of its largest entry"

    with torch.no_grad():
        state = ours.eval()(tokens[:, :-2]).state
        later = ours(tokens[:, -2:], state=state).logits
        cache = theirs.eval()(tokens[:, :-2], use_cache=True).past_key_values
        wanted = theirs(tokens[:, -2:], past_key_values=cache, use_cache=True).logits
    assert (later - wanted).abs().max() <= tolerance * wanted.abs().max()
