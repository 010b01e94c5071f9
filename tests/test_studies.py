"""Studies: the grid is what its labels say, models are matched, bad input is refused by name."""

import pytest

from hybrid.cost import parameters
from hybrid.studies import SCALES, SWEEP_SEED, learning_rate_sweep, recall_study, scale, study


@pytest.mark.parametrize("name", SCALES)
def test_models_of_a_scale_match_in_parameters(name):
    counts = {parameters(s.model) for s in recall_study(name, mixers=("hgrn", "retnet", "gated_deltanet"))}
    assert max(counts) / min(counts) < 1.02


def test_laptop_grid_holds_every_model_once():
    specs = recall_study("laptop")
    layouts = {
        (s.model.mixer if "L" in s.model.layout.letters else "full", str(s.model.layout)) for s in specs
    }
    assert len(specs) == 13 * 3
    assert len({s.run_id for s in specs}) == len(specs)
    assert ("retnet", "LLFLLF") in layouts
    assert sum(mixer == "full" for mixer, _ in layouts) == 1
    assert {s.model.conv for s in specs} == {4}


def test_sweep_uses_a_seed_no_study_reports():
    assert {s.seed for s in learning_rate_sweep("laptop")} == {SWEEP_SEED}
    assert all(s.seed != SWEEP_SEED for s in recall_study("laptop"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale_name": "huge"}, "unknown scale 'huge'; allowed: smoke, laptop, gpu"),
        ({"mixers": ("mamba",)}, "unknown value 'mamba' in mixers; allowed: hgrn"),
        ({"mixers": ()}, "mixers must be a list that is not empty"),
        ({"mixers": "retnet"}, "mixers must be a list"),
        ({"seeds": (-1,)}, "unknown value -1 in seeds"),
        ({"seeds": (0, 0)}, "seeds holds 0 more than once"),
        ({"ratios": ("7:1",)}, "7:1 needs a depth divisible by 7"),
        ({"ratios": ("half",)}, "unknown ratio 'half'"),
        ({"depth": 0}, "depth must be a positive number"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        recall_study(**arguments)


def test_unknown_study_is_refused():
    with pytest.raises(ValueError, match="unknown study 'grit'; allowed: recall, learning_rates"):
        study("grit", "laptop")


def test_depth_and_steps_can_be_changed():
    specs = recall_study("smoke", ratios=("3:1",), depth=3, steps=4)
    assert {str(s.model.layout) for s in specs} == {"LLF"}
    assert {s.train.steps for s in specs} == {4}
    assert scale("smoke").depth == 2
