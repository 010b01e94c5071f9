"""Tables of FlashMorph that others transcribed: whole, in range, and consistent where arithmetic can tell."""

import pytest

from hybrid.papers.published import table


@pytest.mark.parametrize("name", ["flashmorph_cost", "flashmorph_niah", "flashmorph_texts"])
def test_what_others_transcribed_says_so(name):
    frame = table(name)
    assert (frame["status"] == "transcribed by others").all()
    assert (frame["paper"] == "arXiv:2606.30562").all()
    assert frame.notna().all(axis=None) and not frame.duplicated().any()


def test_factors_of_the_cost_follow_from_its_hours():
    frame = table("flashmorph_cost").set_index("selector")
    ours = frame["gpu_hours"] / frame.loc["FlashMorph", "gpu_hours"]
    assert ours.round(1).to_dict() == pytest.approx(frame["factor"].to_dict())


def test_every_model_and_selector_has_three_needles_at_four_lengths():
    frame = table("flashmorph_niah")
    assert frame["score_percent"].between(0, 100).all()
    wide = frame.pivot(index=["model", "selector"], columns=["task", "length"], values="score_percent")
    assert wide.shape == (16, 12) and wide.notna().all(axis=None)
    # Read off the notes by eye.
    assert wide.loc[("0.6B", "HALO"), ("niah_single_2", 131072)] == 62.4
    assert wide.loc[("30B-A3B", "FlashMorph"), ("niah_single_3", 262144)] == 18.2
