"""What is known of the released checkpoints, and published beside measured scores."""

import json

import pytest

from hybrid.checkpoints.fla_config import from_fla
from hybrid.models import cost
from hybrid.papers.published import table
from hybrid.released import scores
from hybrid.released.expected import beside_published, expected_config
from hybrid.released.scores import LANGUAGE, LENGTHS, RULER

LEGACY = 24 * 8
"""Entries of the tensor D that the released 1.3B Gated DeltaNet carries: one a head and block."""


def test_the_released_size_is_found_to_the_last_parameter():
    config = from_fla(expected_config("1.3B", "gated_deltanet", "pure"))
    assert cost.parameters(config) + LEGACY == 1_466_344_000
    assert 4 * (cost.parameters(config) + LEGACY) == 5_865_376_000


@pytest.mark.parametrize("row", table("checkpoints").to_dict("records"), ids=lambda row: row["hf_repository"])
def test_every_released_model_has_a_config_that_is_read(row):
    config = from_fla(expected_config(row["model_scale"], row["mixer"], row["ratio_label"]))
    assert config.depth == row["num_hidden_layers"]
    assert len(config.layout.full) == row["num_full_attention_layers_period_rule"]
    places = row["full_attention_layers_1_indexed"]
    if isinstance(places, str) and places != "all":
        assert [p + 1 for p in config.layout.full] == [int(place) for place in places.split(";")]


def test_what_is_not_released_is_refused():
    with pytest.raises(ValueError, match=r"no released model 1\.3B gla 2:1; allowed: 340M, 1\.3B; hgrn"):
        expected_config("1.3B", "gla", "2:1")


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Store a score as `evaluate` does."""
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path))
    (tmp_path / "evaluations").mkdir()

    def keep(model, task, metric, value, *, length=None, limit=None, shots=0, date="2026-01-01"):
        one = scores.Evaluation(model, "c0ffee", task, length, shots, limit, 2048, None, date)
        record = {
            "evaluation": one.__dict__,
            "metrics": {metric: {"value": value, "stderr": None}},
            "n": 500,
            "truncated": 0,
            "provenance": {"device": "a GPU", "date": date},
        }
        (tmp_path / "evaluations" / one.file_name).write_text(json.dumps(record))

    return keep


def test_without_scores_every_published_entry_is_there_and_empty(keep):
    frame = beside_published()
    assert frame["measured"].isna().all()
    models = {"Table 2": 7, "Table 3": 7, "Table 6": 5}
    a_model = {"Table 2": 2 * 5 + 2, "Table 3": 2 * 5 + 2, "Table 6": 7 * len(LENGTHS)}
    for name, rows in frame.groupby("table"):
        assert len(rows) == models[name] * a_model[name]
    assert set(frame["column"]) == {*LANGUAGE.values(), *RULER.values()}


def test_scores_stand_beside_what_they_measure(keep):
    model = "m-a-p/1.3B-100B-HGRN2-hybrid-6-1"
    keep(model, "piqa", "acc_norm", 0.5, date="2026-01-01")
    keep(model, "piqa", "acc_norm", 0.7, date="2026-03-01")
    keep(model, "piqa", "acc_norm", 0.6, date="2026-02-01")
    keep(model, "piqa", "acc", 0.1, limit=10)
    keep(model, "hellaswag", "acc", 0.1, shots=5)
    for task, value in {"niah_single_1": 1.0, "niah_single_2": 0.5, "niah_single_3": 0.0}.items():
        keep(model, task, "accuracy", value, length=2048)
    keep(model, "ruler_qa_squad", "accuracy", 0.3, length=1024)
    frame = beside_published()
    found = frame[frame["measured"].notna()].set_index(["table", "model", "task", "metric"])["measured"]
    assert found.to_dict() == {
        ("Table 3", model, "piqa", "acc_norm"): 0.7,
        ("Table 6", model, "singlevalue", "2048 tokens"): 0.5,
    }
