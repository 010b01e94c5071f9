"""Versions of rooms: what a file says, what has moved, and that an installed package has them."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.runs import versions

WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=9)


@settings(deadline=None)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=12))
def test_a_file_reads_back(tmp_path_factory, reasons):
    path = tmp_path_factory.mktemp("room") / "VERSION"
    path.write_text("".join(f"{n}  {reason}\n" for n, reason in enumerate(reasons, 1)), encoding="utf-8")
    assert versions.read(path) == tuple(reasons)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", " is empty; its first line must be '1  what changed'"),
        ("2  first\n", ", line 1 must be '1  what changed'; got '2  first'"),
        ("1  first\n3  third\n", ", line 2 must be '2  what changed'; got '3  third'"),
        ("1  first\n1  again\n", ", line 2 must be"),
        ("1  first\n2\n", ", line 2 must be '2  what changed'; got '2'"),
        ("1  first\n2   \n", ", line 2 must be"),
        ("1  first\n\n3  third\n", ", line 2 must be '2  what changed'; got ''"),
        ("1  first\n 2  second\n", ", line 2 must be"),
        ("1  first\n2second\n", ", line 2 must be"),
        ("1  first\n2.0  second\n", ", line 2 must be"),
        ("one  first\n", ", line 1 must be"),
        ("1  f\xfcrst\n", " is not UTF-8 text"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, text, where):
    path = tmp_path / "VERSION"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}{where}')}"):
        versions.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="VERSION"):
        versions.read(tmp_path / "VERSION")


def test_an_unknown_room_is_named_with_the_allowed_ones():
    for ask in (versions.version, versions.history):
        with pytest.raises(ValueError, match="unknown room 'kitchen'; allowed: models, data, training"):
            ask("kitchen")


def test_the_last_number_is_the_version(monkeypatch):
    monkeypatch.setitem(versions.HISTORY, "data", ("first", "longer", "shorter"))
    assert versions.version("data") == 3 and versions.history("data") == ["first", "longer", "shorter"]
    assert versions.today(["models", "data"]) == {"models": versions.version("models"), "data": 3}
    assert versions.tag(["models", "data"]) == f"models{versions.version('models')}-data3"


def test_what_has_moved_is_said_with_the_reason(monkeypatch):
    monkeypatch.setitem(versions.HISTORY, "models", ("first",))
    monkeypatch.setitem(versions.HISTORY, "data", ("first", "longer", "shorter"))
    rooms = ("models", "data")
    expected = {
        (1, 3): [],
        (1, 2): ["data 2 -> 3: shorter"],
        (1, 1): ["data 1 -> 3: longer; shorter"],
        (2, 3): ["models 2 -> 1: made by newer code"],
        (2, 1): ["models 2 -> 1: made by newer code", "data 1 -> 3: longer; shorter"],
    }
    for numbers, said in expected.items():
        assert versions.moved(rooms, dict(zip(rooms, numbers, strict=True))) == said
    for unknown in (None, [], "data1", 3):
        assert versions.moved(rooms, unknown) == ["of code without versions"]
    for number in (None, "3", 3.0, True, 0, -1):
        then = {"models": 1, "data": number}
        assert versions.moved(rooms, then) == ["data ? -> 3: its version is not known"]
    assert versions.moved((), {"data": 1}) == []


def test_the_installed_package_has_every_version(tmp_path):
    """A wheel, built as pip builds it."""
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    source = tmp_path / "source"
    shutil.copytree(ROOT / "hybrid", source / "hybrid", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"hybrid/{room}/VERSION" for room in versions.ROOMS} <= held
