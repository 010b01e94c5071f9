"""Numbers of ConSA that others transcribed: they say so, and arithmetic tells which of two notes is right."""

import pytest

from hybrid.papers.published import table
from hybrid.studies import selection


def scores(status):
    frame = table("consa_scores").query("quantity == 'average score' and status == @status")
    return frame.set_index("arm")["value"].to_dict()


def test_what_others_transcribed_says_so_and_names_its_source():
    frame = table("consa_scores")
    assert set(frame["status"]) == {"transcribed by others", "contradicts the digest"}
    assert (frame["paper"] == "arXiv:2606.18056").all() and frame.notna().all(axis=None)
    assert not frame.duplicated().any()


def test_arms_are_those_of_the_study():
    known = set(selection.masks("laptop"))
    assert set(scores("transcribed by others")) <= known and len(scores("transcribed by others")) == 6
    # Read off the notes by eye.
    assert scores("transcribed by others")["ConSA, blocks"] == 47.74


def test_relative_gains_follow_from_the_digest_and_not_from_the_other_note():
    printed = table("consa_scores").set_index("quantity")["value"].astype(float)
    digest, other = scores("transcribed by others"), scores("contradicts the digest")
    best = digest["ConSA, heads of each block"]
    assert 100 * (best / digest["dense"] - 1) == pytest.approx(printed["percent above dense"], abs=0.05)
    rule = printed["percent above rule by head"]
    assert 100 * (best / digest["rule, heads"] - 1) == pytest.approx(rule, abs=0.05)
    assert abs(100 * (best / other["rule, heads"] - 1) - rule) > 1
