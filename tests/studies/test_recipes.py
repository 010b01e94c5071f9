"""The paper's own scale: sizes against the released checkpoints, tokens against the print, a rehearsal."""

import math
from dataclasses import replace

import pytest
from test_training import train_on_two_processes

from hybrid.config import RunSpec, TaskConfig
from hybrid.config.layout import Layout
from hybrid.data.corpus import SHARD_TOKENS, VALIDATION_PERCENT
from hybrid.models.cost import parameters
from hybrid.papers.published import paper_mixers, table
from hybrid.studies.paper import CHOICES, RATIOS, SIZES, choices, paper, paper_grid, rehearsal
from hybrid.training.fit import fit

MIXERS = paper_mixers()

MILLIONS = {
    "hgrn": (373.9, 1364.4),
    "hgrn2": (373.9, 1364.4),
    "gla": (374.5, 1365.5),
    "deltanet": (374.4, 1365.7),
    "retnet": (380.2, 1351.7),
    "gated_deltanet": (399.5, 1466.3),
}
"""Parameters of the pure models at 340M and 1.3B, counted by hand from the library's tensors."""


def test_released_checkpoint_has_this_many_parameters():
    """Its float32 shards hold 5,865,376,000 bytes; `D`, one number a head, is of an older library."""
    model = paper("1.3b", "gated_deltanet", "pure").model
    legacy = model.depth * model.linear.num_heads
    assert 4 * (parameters(model) + legacy) == 5_865_376_000


@pytest.mark.parametrize("mixer", MIXERS)
def test_pure_models_have_the_counted_sizes(mixer):
    counted = [parameters(paper(size, mixer, "pure").model) / 1e6 for size in SIZES]
    assert counted == pytest.approx(MILLIONS[mixer], abs=0.05)


@pytest.mark.parametrize(("size", "millions"), [("340m", 373.9), ("1.3b", 1364.3)])
def test_full_attention_has_the_counted_size(size, millions):
    assert parameters(paper(size, "retnet", "full").model) / 1e6 == pytest.approx(millions, abs=0.05)


def test_matched_models_differ_by_less_than_two_percent():
    for size in SIZES:
        full = parameters(paper(size, "gla", "full", matched=True).model)
        for mixer in MIXERS:
            for ratio in RATIOS:
                model = paper(size, mixer, ratio, matched=True).model
                assert model.conv == 4
                assert abs(parameters(model) / full - 1) < 0.02, (size, mixer, ratio)
                assert model.mlp.size is None or model.mlp.size % 64 == 0


def test_steps_see_the_printed_tokens():
    for size, tokens, batch in (("340m", 20e9, 0.5 * 2**20), ("1.3b", 100e9, 2**20)):
        spec = paper(size, "hgrn2", "6:1")
        a_step = spec.train.batch_size * spec.task.seq_len
        assert a_step == batch
        assert spec.train.steps * a_step == pytest.approx(tokens, rel=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_training_text_is_as_long_as_what_a_run_sees(size):
    spec = paper(size, "hgrn2", "6:1")
    wanted = spec.task.corpus_tokens
    held_out = wanted / (wanted // SHARD_TOKENS) / VALIDATION_PERCENT
    seen = spec.train.steps * spec.train.batch_size * spec.task.seq_len
    assert seen < wanted - 2 * held_out and wanted < 1.01 * seen
    assert held_out < 2 * SHARD_TOKENS / VALIDATION_PERCENT
    assert rehearsal(spec).task.corpus_tokens == TaskConfig().corpus_tokens


def test_full_blocks_of_the_grid_are_those_of_the_released_checkpoints():
    released = table("checkpoints").query("mixer != 'transformer'")
    assert set(released["ratio_label"]) == {*RATIOS} - {"full"}
    for row in released.itertuples():
        layout = paper(row.model_scale.lower(), row.mixer, row.ratio_label).model.layout
        placed = str(row.full_attention_layers_1_indexed)
        assert ";".join(str(block + 1) for block in layout.full) == placed.replace("nan", "")


def test_grid_has_the_models_of_the_described_matrix():
    published, matched = (paper_grid(arm=arm) for arm in ("published", "matched"))
    for grid in (published, matched):
        assert len({spec.run_id for spec in grid}) == len(grid) == 62
    assert {spec.model.conv for spec in published} == {"reference"}
    assert len(paper_grid(("gla",), ("pure", "full"), (1, 2))) == 8
    with pytest.raises(ValueError, match="unknown arm 'ours'; allowed: matched, published"):
        paper_grid(arm="ours")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("7b", "gla", "pure"), "size '7b'"),
        (("340m", "mamba", "pure"), "mixer 'mamba'"),
        (("340m", "gla", "2:1"), "ratio '2:1'"),
    ],
)
def test_unknown_names_are_refused(wrong, named):
    with pytest.raises(ValueError, match=f"unknown {named}; allowed: "):
        paper(*wrong)


def test_every_choice_is_a_field_and_says_how_it_is_known():
    spec = paper("340m", "retnet", "3:1")
    frame = choices(spec).set_index("field")
    assert list(frame.index) == list(CHOICES)
    assert set(frame["known"]) == {"printed", "found", "inferred", "unknown"}
    assert frame.loc["num_heads", "value"] == 8 and frame.loc["mlp_size", "value"] == 1536
    defaults = RunSpec(replace(spec.model, layout=Layout.parse("F")), type(spec.task)(), type(spec.train)())
    differing = {
        name
        for part in ("model", "task", "train")
        for name, value in vars(getattr(spec, part)).items()
        if value != getattr(getattr(defaults, part), name)
    }
    # What differs from this project's own defaults is accounted for; the rest is what is measured. The linear
    # mixer is what a run is about.
    assert differing <= {*CHOICES, "recall_fraction", "eval_every", "linear"}


def test_recipe_runs_sharded_as_on_one_device(tmp_path):
    """The recipe in small: accumulation, decay of everything, skipping, bfloat16, two processes."""
    spec = rehearsal(paper("340m", "gated_deltanet", "3:1", matched=True))
    assert spec.train == replace(
        paper("340m", "gated_deltanet", "3:1").train,
        steps=20,
        warmup=5,
        batch_size=8,
        accumulate=2,
        eval_every=10,
    )
    stored = train_on_two_processes(spec, tmp_path, "fsdp")
    alone = fit(spec, progress=False)
    assert stored["status"] == "done" and stored["provenance"]["devices"] == 2
    assert stored["metrics"].keys() == alone.metrics.keys()
    assert [point["step"] for point in stored["curve"]] == [10, 20]
    for shared, one in zip(stored["curve"], alone.curve, strict=True):
        # bfloat16 keeps eight bits.
        assert math.isclose(shared["loss_bits_per_byte"], one["loss_bits_per_byte"], rel_tol=2**-8)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_can_be_rehearsed(mixer):
    spec = rehearsal(paper("1.3b", mixer, "3:1"))
    assert parameters(spec.model) < 1e6
    assert fit(spec.with_(steps=1, warmup=1, batch_size=2), progress=False).status == "done"
