"""Specs of every kind: one name for equal content, another for any change, JSON that reads back."""

import json
from dataclasses import dataclass, replace
from importlib import import_module

import pytest
from flat import flat_config
from hypothesis import given
from hypothesis import strategies as st

from hybrid.config import RunSpec, TaskConfig, TrainConfig
from hybrid.config.layout import Layout
from hybrid.config.specs import Choice, Spec
from hybrid.conversion.specs import AlignSpec, HybridSpec, Stage
from hybrid.runs import trainers
from hybrid.runs.versions import ROOMS
from hybrid.selection import Restoration
from hybrid.selection.base import SelectSpec

RUN = RunSpec(flat_config("FFF", vocab_size=384, hidden_size=16, attn_heads=2), TaskConfig(), TrainConfig())
STAGE = Stage(TrainConfig(steps=10, warmup=1), seq_len=64, recall_fraction=0.5)
ALIGN = AlignSpec(RUN, "gla", STAGE)
HYBRID = HybridSpec(ALIGN, "LFL", STAGE, replace(STAGE, seq_len=256))


class Way(Choice):
    """Alternatives of these tests."""


@dataclass(frozen=True)
class Walk(Way):
    kind = "walk"
    pace: float = 1.0


@dataclass(frozen=True)
class Ride(Way):
    kind = "ride"
    pace: float = 1.0
    stops: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Trip(Spec):
    kind = "trip"
    rooms = ("models",)

    way: Way
    inside: AlignSpec | None = None
    over: Layout | None = None
    note: str = ""
    seed: int = 0


def through_json(spec: Spec) -> dict:
    return json.loads(json.dumps(spec.to_dict()))


@pytest.mark.parametrize("spec", [RUN, ALIGN, HYBRID, replace(ALIGN, branch="window", stage=None, window=8)])
def test_stored_kinds_read_back_by_their_kind(spec):
    again = trainers.read(through_json(spec))
    assert again == spec and type(again) is type(spec) and again.run_id == spec.run_id


WAYS = st.one_of(
    st.builds(Walk, st.floats(0, 9)),
    st.builds(Ride, st.floats(0, 9), st.lists(st.lists(st.integers(), max_size=2).map(tuple)).map(tuple)),
)


@given(WAYS, st.booleans(), st.sampled_from([None, "F", "LFL"]), st.text(max_size=3), st.integers(0, 9))
def test_any_spec_reads_back(way, inside, layout, note, seed):
    over = None if layout is None else Layout(layout)
    spec = Trip(way, ALIGN if inside else None, over, note, seed)
    again = Trip.from_dict(through_json(spec))
    assert again == spec and again.run_id == spec.run_id


def test_every_change_changes_the_name():
    other_run = RUN.with_(steps=999)
    specs = [
        ALIGN,
        replace(ALIGN, branch="retnet"),
        replace(ALIGN, seed=1),
        replace(ALIGN, teacher=other_run),
        replace(ALIGN, stage=replace(STAGE, seq_len=65)),
        HYBRID,
        replace(HYBRID, layout=Layout("FLL")),
        replace(HYBRID, align=replace(ALIGN, seed=1)),
        replace(HYBRID, drop_rope=True),
        Trip(Walk()),
        Trip(Ride()),
        Trip(Walk(2.0)),
        Trip(Walk(), ALIGN),
    ]
    assert len({spec.run_id for spec in specs}) == len(specs)


def test_a_field_at_its_default_is_not_in_the_name(monkeypatch):
    before = Trip(Walk()).run_id

    @dataclass(frozen=True)
    class Longer(Trip):
        added: int = 5

    assert Longer(Walk()).run_id == before != Longer(Walk(), added=6).run_id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "cake"}, "unknown kind of work 'cake'; allowed: run, align"),
        ({"branch": "mamba"}, "unknown branch 'mamba'"),
        ({"speed": 3}, "unknown field 'speed' of AlignSpec; allowed: teacher, branch"),
        ({"stage": 3}, "a Stage is a JSON object; got 3"),
        ({"teacher": {}}, "a RunSpec needs model, task, train"),
    ],
)
def test_wrong_json_is_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        trainers.read(through_json(ALIGN) | change)


def test_a_missing_field_and_an_unknown_alternative_are_refused_by_name():
    with pytest.raises(ValueError, match="a Trip needs way"):
        Trip.from_dict({"seed": 1})
    with pytest.raises(ValueError, match="unknown Way 'fly'; allowed: ride, walk"):
        Trip.from_dict({"way": {"kind": "fly"}})


def test_columns_are_single_values_and_outer_names_win():
    about = Trip(Ride(2.0), ALIGN, Layout("LFL"), seed=3).columns()
    assert about["way"] == "ride" and about["way_pace"] == 2.0 and "way_stops" not in about
    assert about["over"] == "LFL" and about["full_blocks"] == 1 and about["depth"] == 3
    assert about["branch"] == "gla" and about["teacher"] == RUN.run_id and about["seed"] == 3
    assert HYBRID.title == "hybrid gla LFL, seed 0" and RUN.title == "full FFF, seed 0"


def test_every_kind_has_a_trainer_and_rooms():
    """The lower rooms first, and those that every model, task and training rests on."""
    for name in trainers.KINDS:
        assert callable(trainers.trainer(name))
        module, _, class_name = trainers.KINDS[name].spec.partition(":")
        rooms = getattr(import_module(module), class_name).rooms
        assert rooms[:3] == RUN.rooms and list(rooms) == [room for room in ROOMS if room in rooms]
    assert set(HYBRID.rooms) - set(RUN.rooms) == {"conversion"}
    with pytest.raises(ValueError, match="unknown kind of work 'cake'"):
        trainers.trainer("cake")


@dataclass(frozen=True)
class Walker(Spec):
    kind = "walker"
    rooms = ("models",)

    pace: float = 1.0


@dataclass(frozen=True)
class Either(Spec):
    """A spec whose field names the kinds that may stand there; the registry knows neither."""

    kind = "either"
    rooms = ("models",)

    first: Trip | Walker


@pytest.mark.parametrize("first", [Trip(Walk(2.0)), Walker(3.0)])
def test_a_field_of_several_specs_reads_the_one_that_is_named(first):
    again = Either.from_dict(through_json(Either(first)))
    assert again == Either(first) and type(again.first) is type(first)


def test_a_spec_of_another_kind_than_the_field_allows_is_refused():
    values = through_json(Either(Walker()))
    with pytest.raises(ValueError, match="unknown kind of work 'run'; allowed: trip, walker"):
        Either.from_dict(values | {"first": RUN.to_dict()})
    with pytest.raises(ValueError, match="unknown kind of work 'align'; allowed: checkpoint, run"):
        trainers.read(through_json(ALIGN) | {"teacher": through_json(ALIGN)})
    with pytest.raises(ValueError, match="unknown kind of work 'run'; allowed: align"):
        trainers.read(through_json(HYBRID) | {"align": RUN.to_dict()})


def test_a_spec_without_its_kind_is_of_the_first_one_that_the_field_names():
    values = through_json(ALIGN)
    del values["teacher"]["kind"]
    assert trainers.read(values) == ALIGN


def test_passes_are_all_stretches_of_training():
    """Counted by hand: the teacher's, stage 1, and the stages of the hybrid or of a selector."""
    assert [task.seq_len for _, task in HYBRID.passes()] == [RUN.task.seq_len, 64, 64, 256]
    assert [train for train, _ in HYBRID.passes()] == [RUN.train, *[STAGE.train] * 3]
    assert [*RUN.passes()] == [(RUN.train, RUN.task)] == [*replace(ALIGN, stage=None).passes()]
    restored = SelectSpec(ALIGN, Restoration(replace(STAGE, seq_len=256)), (1,))
    assert [task.seq_len for _, task in restored.passes()] == [RUN.task.seq_len, 64, 256]
