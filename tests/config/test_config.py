"""Run descriptions: what they refuse, how they are written, and their names."""

import hashlib
import json
import math
import string
from dataclasses import replace

import pytest
from flat import flat_config
from hypothesis import given
from hypothesis import strategies as st

from hybrid.config import MIXERS, ExpertsConfig, LessonConfig, ModelConfig, RunSpec, TaskConfig, TrainConfig
from hybrid.config.layout import LETTERS
from hybrid.mixers.base import conv_width
from hybrid.models.mlps import inner_width
from hybrid.runs import tables
from hybrid.statistics.intervals import summary


@st.composite
def full_heads_of(draw, layout: str) -> list[list[int]] | None:
    """Any choice of full heads for two key-value heads: lists, as JSON gives them."""
    masks = [draw(st.sampled_from([[], [0], [1]])) if letter in "Ww" else [] for letter in layout]
    return masks if any(masks) else None


def with_layout(layout: str) -> st.SearchStrategy[ModelConfig]:
    windowed = (
        {"window": st.integers(1, 9), "full_heads": full_heads_of(layout)} if {"W", "w"} & set(layout) else {}
    )
    return st.builds(flat_config, layout=st.just(layout), attn_kv_heads=st.just(2), **windowed)


model_configs = st.text(alphabet="LFWlfwm", min_size=1, max_size=8).flatmap(with_layout) | st.builds(
    flat_config,
    layout=st.text(alphabet="LFPlfpm", min_size=1, max_size=8),
    mixer=st.sampled_from(sorted(MIXERS)),
    vocab_size=st.integers(2, 1000),
    hidden_size=st.sampled_from([128, 256]),
    mlp_size=st.none() | st.integers(1, 300),
    attn_heads=st.sampled_from([2, 4]),
    attn_head_dim=st.none() | st.sampled_from([4, 12]),
    qkv_bias=st.booleans(),
    qk_norm_eps=st.sampled_from([1e-5, 1e-6]),
    rope_theta=st.none() | st.sampled_from([1e4, 5e5]),
    qk_norm=st.booleans(),
    conv=st.sampled_from(["reference", "none", 2, 4]),
    tie_embeddings=st.booleans(),
)
task_configs = st.builds(
    TaskConfig,
    seq_len=st.sampled_from([64, 128]),
    recall_fraction=st.sampled_from([0.0, 0.25, 1.0]),
    pairs=st.lists(st.integers(1, 16), min_size=1, max_size=3),
)
train_configs = st.builds(
    TrainConfig,
    steps=st.integers(100, 5000),
    lr=st.floats(1e-5, 1e-2),
    batch_size=st.sampled_from([8, 32]),
    accumulate=st.sampled_from([1, 4]),
)
run_specs = st.builds(RunSpec, model_configs, task_configs, train_configs, seed=st.integers(0, 100))


@given(run_specs)
def test_a_spec_survives_json(spec):
    again = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.run_id == spec.run_id


@given(run_specs, run_specs)
def test_run_ids_differ_exactly_where_specs_do(one, other):
    assert (one.run_id == other.run_id) == (one == other)


@given(run_specs)
def test_run_id_does_not_depend_on_how_a_spec_was_written(spec):
    written = spec.to_dict()
    backwards = {part: value for part, value in reversed(written.items())}
    backwards["model"] = dict(reversed(written["model"].items()))
    assert RunSpec.from_dict(backwards).run_id == spec.run_id
    defaults = RunSpec(flat_config("L"), TaskConfig(), TrainConfig()).to_dict()
    for part in ("model", "task", "train"):
        given_fields = {
            k: v for k, v in written[part].items() if k in ("layout", "linear") or v != defaults[part][k]
        }
        assert RunSpec.from_dict({**written, part: given_fields}).run_id == spec.run_id


def test_whole_numbers_are_the_same_as_real_ones():
    spec = RunSpec(flat_config("LF"), TaskConfig(), TrainConfig())
    assert spec.with_(recall_fraction=1).run_id == spec.with_(recall_fraction=1.0).run_id
    assert spec.with_(betas=(0, 0)).run_id == spec.with_(betas=(0.0, 0.0)).run_id
    whole, real = (flat_config("LF", rope_theta=theta, init_std=int(theta)) for theta in (10, 10.0))
    assert spec.with_(**vars(whole)).run_id == spec.with_(**vars(real)).run_id


def test_run_id_is_the_same_on_every_machine():
    spec = RunSpec(flat_config("LLF", "gla", hidden_size=64), TaskConfig(), TrainConfig(steps=500), seed=3)
    canonical = (
        '["run",{"model":{"hidden_size":64,"layout":"LLF","linear":{"mixer":"gla"}},"seed":3,"task":{},'
        '"train":{"steps":500}}]'
    )
    assert spec.run_id == hashlib.sha256(canonical.encode()).hexdigest()[:12]


def test_with_changes_one_field_of_any_part():
    spec = RunSpec(flat_config("LLF"), TaskConfig(), TrainConfig())
    changed = spec.with_(linear="gla", seq_len=256, lr=3e-4, seed=2)
    assert (changed.model.mixer_name, changed.task.seq_len, changed.train.lr, changed.seed) == (
        "gla",
        256,
        3e-4,
        2,
    )
    assert changed.model.layout == spec.model.layout
    with pytest.raises(ValueError, match="no part of a run spec has a field 'learning_rate'"):
        spec.with_(learning_rate=1)


SPEC = RunSpec(flat_config("LF"), TaskConfig(), TrainConfig()).to_dict()


def masked(full_heads) -> ModelConfig:
    return flat_config("WLF", hidden_size=48, attn_heads=6, attn_kv_heads=3, window=8, full_heads=full_heads)


def test_full_heads_are_tuples_and_a_part_of_the_name():
    one, other, none = (masked(heads) for heads in ([[0, 2], [], []], [[0], [], []], None))
    assert one.window.full_heads == ((0, 2), (), ())
    specs = [RunSpec(model, TaskConfig(), TrainConfig()) for model in (one, other, none)]
    assert len({spec.run_id for spec in specs}) == 3
    assert len(set(specs)) == 3
    written = json.loads(json.dumps(specs[0].to_dict()))
    assert written["model"]["window"]["full_heads"] == [[0, 2], [], []]
    assert RunSpec.from_dict(written) == specs[0]
    old = specs[2].to_dict()
    del old["model"]["window"]["full_heads"]
    assert RunSpec.from_dict(old).run_id == specs[2].run_id


def test_a_stretch_of_positions_is_numbers_and_reads_back():
    spec = RunSpec(flat_config("LF", rope_stretch=[8, 1, 4, 64]), TaskConfig(), TrainConfig())
    assert spec.model.attention.rotary.stretch == (8.0, 1.0, 4.0, 64.0)
    assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    for wrong in ((0.5, 1, 4, 64), (8, 4, 1, 64), (8, 1, 4, 0), (8, 1, 4), "llama3", 8):
        with pytest.raises(ValueError, match=r"stretch must be \(factor, low, high, length\)"):
            flat_config("LF", rope_stretch=wrong)


def test_tables_can_be_grouped_by_full_heads():
    models = [masked([[0, 2], [], []]), masked([[1], [], []]), masked(None)]
    specs = [RunSpec(model, TaskConfig(), TrainConfig(), seed=s) for model in models for s in (0, 1, 2)]
    table = tables.one_row_a_run(dict.fromkeys(specs))
    found = summary(table, ["layout", "full_heads"], "seed")
    assert list(found["full_heads"]) == ["0,2 - -", "1 - -", ""]
    assert list(found["n"]) == [3, 3, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flat_config("LF", "mamba"), "unknown mixer 'mamba'; allowed: deltanet, gated_deltanet, gla"),
        (lambda: flat_config("LX"), "unknown block 'X' at position 1"),
        (lambda: flat_config("LF", hidden_size=0), "hidden_size must be a whole number of at least 1; got 0"),
        (lambda: flat_config("LF", vocab_size=True), "vocab_size must be a whole number"),
        (lambda: flat_config("LF", mlp_size=2.5), "size must be a whole number of at least 1; got 2.5"),
        (lambda: flat_config("LF", attn_heads=3), "attention.num_heads must divide hidden_size 1024; got 3"),
        (
            lambda: flat_config("LF", attn_heads=8, attn_kv_heads=3),
            "num_kv_heads must divide num_heads 8; got 3",
        ),
        (lambda: flat_config("F", hidden_size=12, attn_heads=4), "even number of channels a head; got 3"),
        (
            lambda: flat_config("F", attn_head_dim=5),
            "even number of channels a head; got 5 (attention.head_dim,",
        ),
        (
            lambda: flat_config("F", attn_head_dim=0),
            "head_dim must be a whole number of at least 1; got 0",
        ),
        (
            lambda: flat_config("WF"),
            "layout WF has blocks that need `window`; got None",
        ),
        (
            lambda: ModelConfig("LF"),
            "need `linear`; got None; its mixer is one of deltanet, gated_deltanet, gla",
        ),
        (lambda: flat_config("LFe"), "layout LFe has blocks that need `experts`; got None"),
        (
            lambda: flat_config("P", attn_head_dim=6),
            "heads of half the width, even where positions are rotary; got 6",
        ),
        (lambda: flat_config("P", "gla", num_heads=2, head_k_dim=7), "half the width; head_k_dim is 7"),
        (
            lambda: flat_config("F", mlp_kind="relu"),
            "unknown kind of MLP 'relu'; allowed: swiglu, squared_relu",
        ),
        (lambda: ExpertsConfig("routed", 8, 2, 16), "unknown kind of experts 'routed'; allowed: none"),
        (
            lambda: flat_config("L", "gla", num_groups=2),
            "gla has no groups of heads; num_groups must be None",
        ),
        (lambda: flat_config("WF", window=0), "size must be a whole number of at least 1; got 0"),
        (
            lambda: flat_config("LF", conv=1),
            "conv must be 'reference', 'none' or a width of at least 2; got 1",
        ),
        (lambda: flat_config("LF", conv="some"), "got 'some'"),
        (lambda: masked(3), "full_heads must be None or one tuple of heads a block; got 3"),
        (lambda: masked([0]), "full_heads must be None or one tuple of heads a block; got [0]"),
        (lambda: masked([[0]]), "full_heads must hold 3 tuples, one a block; got 1"),
        (lambda: masked([[0], [], [], []]), "full_heads must hold 3 tuples, one a block; got 4"),
        (lambda: masked([[], [1], []]), "full_heads of block 1, L, must be (): only the heads of a windowed"),
        (lambda: masked([[], [], [1]]), "full_heads of block 2, F, must be ()"),
        (lambda: masked([[3], [], []]), "block 0 must be whole numbers from 0 to 2 in ascending order, each"),
        (
            lambda: masked([[-1], [], []]),
            "whole numbers from 0 to 2 in ascending order, each once; got (-1,)",
        ),
        (lambda: masked([[1, 0], [], []]), "in ascending order, each once; got (1, 0)"),
        (lambda: masked([[1, 1], [], []]), "in ascending order, each once; got (1, 1)"),
        (
            lambda: masked([[True], [], []]),
            "whole numbers from 0 to 2 in ascending order, each once; got (True,)",
        ),
        (lambda: masked([[1.0], [], []]), "got (1.0,)"),
        (lambda: masked(["0", [], []]), "got ('0',)"),
        (
            lambda: masked([[0, 1, 2], [], []]),
            "full_heads of block 0 names all 3 key-value heads; write F for this block in the layout",
        ),
        (lambda: masked([[], [], []]), "full_heads names no head; leave it None; got ((), (), ())"),
        (lambda: TaskConfig(recall_fraction=1.5), "recall_fraction must be between 0 and 1; got 1.5"),
        (lambda: TaskConfig(lesson=LessonConfig(1.5, 16, (1,))), "share must be between 0 and 1; got 1.5"),
        (
            lambda: TaskConfig(seq_len=64, lesson=LessonConfig(0.5, 24, (1,))),
            "lesson.seq_len must be below seq_len 64 and divide it; got 24",
        ),
        (
            lambda: TaskConfig(seq_len=64, lesson=LessonConfig(0.5, 64, (1,))),
            "lesson.seq_len must be below seq_len 64 and divide it; got 64",
        ),
        (
            lambda: TaskConfig(seq_len=64, lesson=LessonConfig(0.5, 16, (8,))),
            "lesson: pairs must be at most 4 (a quarter of seq_len 16, half of recall_vocab 128); got 8",
        ),
        (lambda: TaskConfig(packing="rows"), "unknown packing 'rows'; allowed: stream, document"),
        (lambda: TaskConfig(pairs=()), "pairs must be whole numbers of at least 1; got ()"),
        (lambda: TaskConfig(pairs=(64,)), "pairs must be at most 32"),
        (lambda: TaskConfig(eval_pairs=(100,)), "eval_pairs must be at most 64"),
        (lambda: TrainConfig(accumulate=5), "accumulate must divide batch_size 32; got 5"),
        (lambda: TrainConfig(warmup=2000), "warmup must be between 0 and steps 1000; got 2000"),
        (lambda: TrainConfig(lr=0.0), "lr must be positive; got 0.0"),
        (lambda: TrainConfig(lr="0.001"), "lr must be a finite number; got '0.001'"),
        (lambda: TrainConfig(lr=math.inf), "lr must be a finite number; got inf"),
        (lambda: TrainConfig(clip=0), "clip must be positive; got 0.0"),
        (lambda: TrainConfig(weight_decay=-1), "weight_decay must be at least 0; got -1.0"),
        (lambda: TrainConfig(betas=(2.0,)), "betas must be two numbers from 0 to below 1; got (2.0,)"),
        (lambda: TrainConfig(betas=0.9), "betas must be a list; got 0.9"),
        (lambda: flat_config("LF", init_std=-1), "std must be at least 0; got -1.0"),
        (lambda: flat_config("LF", norm_eps=0), "norm_eps must be positive; got 0.0"),
        (lambda: TaskConfig(pairs=4), "pairs must be a list; got 4"),
        (
            lambda: TaskConfig(seq_len=64, pairs=(1,), eval_pairs=(32,), eval_lengths=(64,)),
            "eval_pairs must hold a load of at most 16, a quarter of the 64 tokens",
        ),
        (
            lambda: TaskConfig(suite_fraction=0.5, eval_lengths=(16,), eval_pairs=(4,)),
            "the suite needs eval_lengths of at least 64; got (16,)",
        ),
        (lambda: RunSpec.from_dict({**SPEC, "model": "LLLF"}), "a ModelConfig is a JSON object; got 'LLLF'"),
        (lambda: TrainConfig(precision="fp8"), "unknown precision 'fp8'; allowed: auto, 32-true"),
        (
            lambda: RunSpec(flat_config("F"), TaskConfig(), TrainConfig(), seed=-1),
            "seed must be a whole number from 0; got -1",
        ),
        (
            lambda: RunSpec.from_dict({"model": {"layout": "F"}}),
            "a RunSpec needs task, train",
        ),
        (
            lambda: RunSpec.from_dict({**SPEC, "colour": 1}),
            "unknown field 'colour' of RunSpec; allowed: model",
        ),
        (
            lambda: RunSpec.from_dict({**SPEC, "model": {"layout": "F", "width": 1}}),
            "unknown field 'width' of ModelConfig; allowed: layout, linear",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            lambda: flat_config("L", "hgrn", num_heads=2),
            "hgrn has a vector state and no heads; num_heads must be None",
        ),
        (
            lambda: flat_config("L", "gla", hidden_size=64, num_heads=5),
            "num_heads must divide 32 channels; got 5",
        ),
        (lambda: flat_config("L", "hgrn2", hidden_size=64), "head_k_dim must divide 64 channels; got 128"),
        (
            lambda: flat_config("L", "hgrn2", hidden_size=64, num_heads=2, head_k_dim=16),
            "head_k_dim must be hidden_size / num_heads = 32; got 16",
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused(config, message):
    with pytest.raises(ValueError) as error:
        config()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("mixer", "heads", "state"),
    [
        ("hgrn", (1, 1, 1024), 1_024),
        ("hgrn2", (8, 128, 128), 131_072),
        ("retnet", (8, 128, 256), 262_144),
        ("gla", (4, 128, 256), 131_072),
        ("deltanet", (16, 64, 64), 65_536),
        ("gated_deltanet", (3, 256, 512), 393_216),
    ],
)
def test_default_heads_are_the_reference_configs(mixer, heads, state):
    found = MIXERS[mixer].heads_of(flat_config("L" * 24, mixer))
    assert found == heads
    assert found.num * found.k * found.v == state


@pytest.mark.parametrize(("mixer", "inner"), [("gla", (2816, 5632)), ("retnet", (1536, 2816))])
def test_default_mlp_sizes_are_the_reference_configs(mixer, inner):
    assert tuple(inner_width(flat_config("L", mixer, hidden_size=h)) for h in (1024, 2048)) == inner


def test_heads_of_attention_have_a_width_of_their_own_if_asked():
    assert flat_config("F", hidden_size=64, attn_heads=4).head_dim == 16
    assert flat_config("F", hidden_size=64, attn_heads=3, attn_head_dim=10).head_dim == 10


def test_convolution_arms():
    for reference in (0, 4):
        assert conv_width(flat_config("LF"), reference) == reference
        assert conv_width(flat_config("LF", conv=3), reference) == 3
        assert conv_width(flat_config("LF", conv="none"), reference) == 0
    published = {name for name, kind in MIXERS.items() if kind.reference_conv}
    assert published == {"deltanet", "gated_deltanet", "mamba2"}


@pytest.mark.parametrize("letters", ["F" * 24, "f" * 3 + "m", "FW"])
def test_a_model_without_linear_blocks_does_not_depend_on_the_name_of_a_mixer(letters):
    """Two configs of one Transformer were two models, with MLPs of two widths, and had two names."""
    configs = {flat_config(letters, mixer, window=4) for mixer in MIXERS}
    assert len(configs) == 1 and configs.pop().linear is None
    runs = {RunSpec(flat_config(letters, m, window=4), TaskConfig(), TrainConfig()).run_id for m in MIXERS}
    assert len(runs) == 1


def test_parts_that_no_block_holds_are_none():
    config = flat_config("lll", "gla", window=7)
    assert (config.attention, config.window, config.mlp, config.experts) == (None, None, None, None)
    assert flat_config("m").mlp is not None
    assert replace(flat_config("LW", "gla", window=7), layout="LF").window is None


@pytest.mark.parametrize("letter", sorted(set(string.printable) - set(LETTERS)))
def test_no_other_letter_is_a_block(letter):
    with pytest.raises(ValueError, match="unknown block"):
        flat_config("L" + letter)
