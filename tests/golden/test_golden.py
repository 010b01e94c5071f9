"""Golden trajectories: a changed number is seen and named, rewritten code is not, and broken files are."""

import importlib
import json
import math
import os
import pkgutil
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from hybrid import cli, selection
from hybrid.config import MIXERS
from hybrid.runs import versions
from hybrid.selection.base import Selector
from hybrid.studies import golden, golden_runs


def run(home, *arguments, **variables):
    """`python -m hybrid golden` of the package that lies in a folder, with the files beside it."""
    return subprocess.run(
        [sys.executable, "-m", "hybrid", "golden", *arguments],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path):
    """A copy of the package and of its golden numbers."""
    shutil.copytree(ROOT / "hybrid", tmp_path / "hybrid", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "golden", tmp_path / "tests" / "golden")
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert re.search(old, text), f"{path} holds no {old}"
    path.write_text(re.sub(old, new, text))


@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_today_gives_the_stored_numbers(instructions):
    """Whatever vector instructions compute them; PyTorch passes over those that a processor does not have."""
    done = run(ROOT, ATEN_CPU_CAPABILITY=instructions)
    assert done.returncode == 0, done.stdout + done.stderr


CHANGES = [
    ("mixers", "mixers/norms.py", r"eps: float = 1e-6", "eps: float = 1e-5", "models"),
    ("data", "data/recall.py", r"alpha: float = 0\.01", "alpha: float = 0.5", "data"),
    (
        "training",
        "training/loop.py",
        r"\(step \+ 1\) / train\.warmup",
        "(step + 2) / train.warmup",
        "training",
    ),
    ("objectives", "conversion/distillation.py", r'reduction="batchmean"', 'reduction="sum"', "conversion"),
    ("masks", "selection/lagrangian.py", r"START = 5\.0", "START = 4.9", "selection"),
    ("selectors", "selection/scored.py", r"EPSILON = 1e-10", "EPSILON = 1e-2", "selection"),
]


@pytest.mark.parametrize(("kind", "file", "old", "new", "room"), CHANGES, ids=lambda value: str(value)[:24])
def test_a_changed_number_is_named_with_its_room(copy, kind, file, old, new, room):
    edit(copy / "hybrid" / file, old, new)
    done = run(copy, kind)
    said = rf"numbers of {kind} \(.+\) changed: mend it, or raise VERSION in {room} and say why"
    assert done.returncode == 1 and re.search(said, done.stdout), done.stdout + done.stderr


def test_numbers_are_renewed_only_where_a_version_was_raised(copy):
    path = copy / "tests" / "golden" / "selectors.json"
    before = path.read_bytes()
    edit(copy / "hybrid" / "selection" / "scored.py", r"EPSILON = 1e-10", "EPSILON = 1e-2")
    refused = run(copy, "selectors", "--write")
    assert refused.returncode == 2 and path.read_bytes() == before
    assert "nothing is written" in refused.stderr and "raise VERSION in selection" in refused.stderr
    number = versions.version("selection") + 1
    with (copy / "hybrid" / "selection" / "VERSION").open("a") as file:
        file.write(f"{number}  a larger summand\n")
    due = run(copy, "selectors")
    assert due.returncode == 1
    assert f"of other versions (selection {number - 1} -> {number}: a larger summand)" in due.stdout
    assert run(copy, "selectors", "--write").returncode == 0
    stored = json.loads(path.read_text())
    assert stored["rooms"]["selection"] == number
    assert stored["runs"]["HaloRatio"] != json.loads(before)["runs"]["HaloRatio"]


def test_rewritten_code_passes(copy):
    """Local variables with other names, and one expression written as two."""
    norms = copy / "hybrid" / "mixers" / "norms.py"
    edit(norms, r"\bfull\b", "better")
    edit(
        norms,
        r"return \(better \* (.+)\)\.to\(x\.dtype\)",
        r"scaled = better * \1\n    return scaled.to(x.dtype)",
    )
    recall = copy / "hybrid" / "data" / "recall.py"
    edit(recall, r"\bfiller\b", "between")
    for kind in ("mixers", "data"):
        done = run(copy, kind)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_lowest_room_whose_numbers_changed_is_blamed():
    rows = [
        golden.Row("objectives", "align", "changed", 1.0, 0.1),
        golden.Row("mixers", "one", "changed", 1.0, 0.1),
        golden.Row("data", "text", "equal", 0.0, 0.0),
    ]
    rooms = {row.kind: versions.today(golden.KINDS[row.kind].rooms) for row in rows}
    said = golden._advice(rows, rooms)
    assert len(said) == 2 and all("raise VERSION in models and" in sentence for sentence in said)
    rows[1] = rows[1]._replace(outcome="equal")
    assert "raise VERSION in conversion and" in "\n".join(golden._advice(rows, rooms))


@pytest.mark.parametrize(
    ("stored", "made", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([0.0], [0.0], 0.0),
        ([1e-30, 4.0], [-1e-30, 4.0], 5e-31),
        ([], [], 0.0),
        ([1.0], [1.0, 2.0], math.inf),
        ([3], [3], 0.0),
        ([1_000_000_000], [1_000_000_001], math.inf),
        (["a"], ["b"], math.inf),
        ([math.nan], [1.0], math.inf),
        ([None], [1.0], math.inf),
        ("loss", [1.0], math.inf),
    ],
)
def test_differences_are_relative_and_words_and_whole_numbers_exact(stored, made, expected):
    assert golden.difference({"x": stored}, {"x": made}) == pytest.approx(expected, abs=0)
    assert golden.difference({"y": stored}, {"x": made}) == math.inf


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A folder with copies of the stored numbers, which this process compares with."""
    files = shutil.copytree(ROOT / "tests" / "golden", tmp_path / "golden")
    monkeypatch.setattr(golden, "folder", lambda: files)
    return files


def test_faults_are_named_with_the_way_out(stored, capsys):
    path = stored / "data.json"
    whole = path.read_text()
    way_out = "`python -m hybrid golden data --write`"
    for text in (whole[:100], "", "[]", '{"rooms": {}}', '{"rooms": [], "runs": {}}'):
        path.write_text(text)
        for change in ([], ["--write"]):
            assert cli.main(["golden", "data", *change]) == 2
            said = capsys.readouterr().err
            assert f"{path} holds no golden numbers: " in said and way_out in said
    path.unlink()
    assert cli.main(["golden", "data"]) == 2
    assert f"no golden numbers in {path}; {way_out}" in capsys.readouterr().err
    assert cli.main(["golden", "data", "--write"]) == 0 and path.read_text() == whole
    assert cli.main(["golden", "dota"]) == 2
    assert "unknown kind of golden run 'dota'; allowed: mixers, stacks, data" in capsys.readouterr().err


def test_runs_that_only_one_side_has_are_named(stored):
    path = stored / "data.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"runs": whole["runs"] | {"music": {}}}))
    assert "music is made no more: `python -m hybrid golden data --write`" in str(golden.check(["data"]))
    del whole["runs"]["suite"]
    path.write_text(json.dumps(whole))
    report = golden.check(["data"])
    assert report.changed and "suite is not stored: `python -m hybrid golden data --write`" in str(report)
    golden.write(["data"])
    assert not golden.check(["data"]).changed


def test_every_mixer_selector_and_room_has_golden_numbers():
    runs = {name: golden._stored(name)["runs"] for name in golden.KINDS}
    assert {run.partition(",")[0] for run in runs["mixers"]} == set(MIXERS)
    assert {run.partition(", ")[2] for run in runs["objectives"]} >= set(MIXERS)
    for module in pkgutil.iter_modules(selection.__path__, "hybrid.selection."):
        importlib.import_module(module.name)
    ours = [kind for kind in Selector.__subclasses__() if kind.__module__.startswith(selection.__name__)]
    assert set(runs["selectors"]) == {kind.__name__ for kind in ours}
    assert {kind.rooms[-1] for kind in golden.KINDS.values()} == {*versions.ROOMS} - {"bench"}
    assert all(stored["scores"] == [] or any(stored["scores"]) for stored in runs["selectors"].values())


def test_numbers_of_every_training_fall():
    """Independent of the stored numbers: a trajectory of a run that learns nothing would show little."""
    for name in ("mixers", "stacks", "training"):
        for run_name, numbers in golden._stored(name)["runs"].items():
            loss = numbers["loss"]
            assert len(loss) == golden_runs.STEPS and loss[-1] < loss[0], run_name
