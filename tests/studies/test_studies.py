"""Studies: the grid is what its labels say, models are matched, bad input is refused by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.config import StartConfig
from hybrid.config.start import START_PARTS
from hybrid.models.cost import parameters
from hybrid.studies.catalogue import NEEDED_BY, STUDIES, study
from hybrid.studies.grid import MIXERS, SWEEP_SEED, grid, learning_rate_sweep, ratio_labels, starts
from hybrid.studies.scales import ARMS, SCALES, scale

GRIDS = [(name, study) for name, grids in SCALES.items() for study in grids if name != "paper"]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("name", "study"), GRIDS)
def test_models_of_a_grid_and_arm_match_in_parameters(name, study, arm):
    counts = {parameters(s.model) for s in grid(name, study, seeds=(0,), arm=arm)}
    assert max(counts) / min(counts) < 1.02


def test_a_scale_without_a_grid_has_its_mixture():
    assert grid("gpu", "recall", seeds=(0,)) == grid("gpu", seeds=(0,))
    assert grid("laptop", "recall", seeds=(0,)) != grid("laptop", seeds=(0,))
    with pytest.raises(ValueError, match="unknown grid 'recal'; allowed: mixture, recall"):
        scale("laptop", "recal")


@pytest.mark.parametrize(("name", "models"), [("laptop", 25), ("gpu", 31)])
def test_the_grid_is_every_mixer_at_every_ratio_and_full_attention_once(name, models):
    size = scale(name)
    specs = grid(name, seeds=(0, 1, 2))
    assert len(specs) == 3 * models == 3 * (len(MIXERS) * (len(size.ratios) - 1) + 1)
    assert {spec.seed for spec in grid(name)} == set(size.seeds)


def test_laptop_grid_holds_every_model_once():
    specs = study("recall", "laptop")
    layouts = {(s.model.mixer_name, str(s.model.layout)) for s in specs}
    assert len({s.run_id for s in specs}) == len(specs) == len(scale("laptop", "recall").seeds) * (7 * 4 + 1)
    assert ("retnet", "LLFLLF") in layouts
    assert sum(mixer == "full" for mixer, _ in layouts) == 1
    assert {s.model.conv for s in specs} == {4}
    second = study("recall_published", "laptop")
    assert {s.model.conv for s in second} == {"reference"}
    assert {s.seed for s in second} == {s.seed for s in specs} == set(scale("laptop", "recall").seeds)
    assert "mamba2" not in {s.model.mixer_name for s in second}


def test_starts_differ_in_the_part_that_they_are_called_by():
    arms = starts("laptop")
    one = {name: [replace(s.model, start=StartConfig()) for s in specs] for name, specs in arms.items()}
    assert all(models == one["mimetic"] for models in one.values())
    assert len(arms["mimetic"]) == 3 * 8
    for part in START_PARTS:
        for with_all, without in zip(arms["mimetic"], arms[part], strict=True):
            assert replace(without.model.start, **{part: True}) == with_all.model.start != without.model.start


def test_a_full_block_is_placed_everywhere_once():
    specs = study("recall_places", "laptop")
    assert {str(s.model.layout).index("F") for s in specs} == set(range(6))
    last = [s for s in specs if str(s.model.layout) == "LLLLLF"]
    assert set(last) <= set(study("recall", "laptop"))


def test_every_model_has_the_rate_of_its_mixer():
    size = scale("laptop")
    for spec in grid("laptop"):
        kind = spec.model.mixer_name
        assert spec.train.lr == size.rates.get(kind, size.train.lr)


def test_labels_are_those_whose_layout_they_give():
    assert ratio_labels(4) == {"LLLL": "pure", "FFFF": "full", "LFLF": "2:1", "LLLF": "4:1"}
    assert ratio_labels(24)["LLF" * 8] == "3:1"


def test_sweep_uses_a_seed_no_study_reports():
    assert {s.seed for s in learning_rate_sweep("laptop")} == {SWEEP_SEED}
    assert all(s.seed != SWEEP_SEED for s in grid("laptop"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale_name": "huge"}, "unknown scale 'huge'; allowed: smoke, laptop, gpu, paper"),
        ({"mixers": ("mamba",)}, "unknown value 'mamba' in mixers; allowed: hgrn"),
        ({"mixers": ()}, "mixers must be a list that is not empty"),
        ({"mixers": "retnet"}, "mixers must be a list"),
        ({"seeds": (-1,)}, "unknown value -1 in seeds"),
        ({"seeds": (0, 0)}, "seeds holds 0 more than once"),
        ({"ratios": ("7:1",)}, "7:1 needs a depth divisible by 7"),
        ({"ratios": ("half",)}, "unknown ratio 'half'"),
        ({"arm": "plain"}, "unknown value 'plain' in arm; allowed: matched, published"),
        ({"depth": 0}, "depth must be a positive number"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid(**arguments)


def test_unknown_study_is_refused():
    with pytest.raises(ValueError, match="unknown study 'grit'; allowed: recall, recall_rates"):
        study("grit", "laptop")


def test_depth_and_steps_can_be_changed():
    specs = grid("smoke", ratios=("3:1",), depth=3, steps=4)
    assert {str(s.model.layout) for s in specs} == {"LLF"}
    assert {s.train.steps for s in specs} == {4}
    assert scale("smoke").depth == 2


def test_the_paper_scale_is_both_sizes_of_every_model():
    assert len(grid("paper", seeds=(0,))) == 2 * 31
    with pytest.raises(ValueError, match=r"scale paper has a depth and steps of its own; got .* steps=5"):
        grid("paper", steps=5)


def test_chapters_need_studies_that_exist():
    chapters = {path.stem for path in (Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb")}
    assert set(NEEDED_BY) <= chapters
    assert {name for names in NEEDED_BY.values() for name in names} <= set(STUDIES)
