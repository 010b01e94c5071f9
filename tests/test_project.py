"""The files around the package: environments agree with each other, and commands in the prose exist."""

import ast
import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from hybrid import cli, config
from hybrid.book import notebooks

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
LOCKED = {canonicalize_name(pin.name): pin for pin in LOCK}
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]


def wanted():
    extras = PROJECT["project"]["optional-dependencies"]
    return [
        Requirement(line)
        for lines in [PROJECT["project"]["dependencies"], *extras.values()]
        for line in lines
    ]


def test_the_lock_pins_one_version_of_each_and_no_index():
    assert len(LOCKED) == len(LOCK)
    for pin in LOCK:
        assert re.fullmatch(r"==[0-9][0-9A-Za-z.]*", str(pin.specifier)) and not pin.url, str(pin)


def test_the_lock_leaves_the_libraries_of_a_gpu_to_torch():
    assert not [name for name in LOCKED if name.startswith(("nvidia-", "cuda-"))]
    assert str(LOCKED["triton"].marker) == 'sys_platform == "linux"'


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_the_lock_holds_what_the_package_asks_for(requirement):
    pin = LOCKED[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(next(iter(pin.specifier)).version)


def test_the_environment_that_runs_the_tests_is_the_locked_one():
    for pin in LOCK:
        if pin.marker is None or pin.marker.evaluate():
            assert pin.specifier.contains(metadata.version(pin.name).partition("+")[0]), pin.name


def test_make_lock_keeps_the_pinned_pair():
    makefile = (ROOT / "Makefile").read_text()
    for word in re.search(r"^PINS := (.+)$", makefile, flags=re.M)[1].split():
        pin = Requirement(word)
        assert LOCKED[pin.name].specifier == pin.specifier


def test_the_conda_environment_installs_the_lock_and_the_package():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (python,) = [entry for entry in plain if entry.startswith("python")]
    version = re.fullmatch(r"python=(3\.\d+)", python)[1]
    assert version in SpecifierSet(PROJECT["project"]["requires-python"])
    assert "pip" in plain
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    assert environment["name"] == PROJECT["project"]["name"]


def test_importing_is_light():
    heavy = {"triton", "fla", "transformers", "datasets", "lightning"}
    code = f"import sys, hybrid.cli; print('imported', *{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["imported"]


@pytest.mark.parametrize("kind", [config.ModelConfig, config.TaskConfig, config.TrainConfig, config.RunSpec])
def test_every_field_says_what_it_is(kind):
    tree = ast.parse(Path(inspect.getfile(kind)).read_text())
    (body,) = [
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    ]
    described = {
        field.target.id
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and len(text.value.value) > 10
    }
    undescribed = {field.name for field in dataclasses.fields(kind)} - described
    assert undescribed <= {"model", "task", "train"}


def commands():
    """Every command of this package in the shell blocks of the prose."""
    for path in PROSE:
        for block in re.findall(r"^```bash\n(.*?)^```", path.read_text(), flags=re.M | re.S):
            for line in block.splitlines():
                if "-m hybrid " in line:
                    yield pytest.param(line, id=f"{path.name}: {line.partition('#')[0].strip()}")


@pytest.mark.parametrize("line", [*commands()])
def test_a_command_in_the_prose_exists(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_run.yaml").write_text("model: {layout: F}")
    words = shlex.split(line, comments=True)
    arguments = cli.parser().parse_args(words[words.index("hybrid") + 1 :])
    if arguments.command == "notebook":
        given = notebooks.parse_parameters(arguments.notebook.parameters)
        notebooks.check_parameters(notebooks.SOURCES / f"{arguments.notebook.name}.ipynb", given)


def test_make_targets_in_the_prose_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {
        name
        for path in PROSE
        for name in re.findall(r"\bmake ([a-z-]+)\b *(?:#|`|$)", path.read_text(), re.M)
    }
    assert {"book", "test", "serve"} <= named <= targets


def test_the_licences_and_the_citation_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["message"]
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == [PROJECT["project"]["license"], "CC-BY-4.0"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "CC BY 4.0" in (ROOT / "book" / "LICENSE").read_text()


def test_committed_results_stay_small():
    """One by one, so that a study at one more scale is no reason to drop another's results."""
    sizes = {path: path.stat().st_size for path in (ROOT / "book" / "results").rglob("*") if path.is_file()}
    assert max(sizes.values()) < 50e3, max(sizes, key=sizes.get)


@pytest.mark.parametrize(
    ("found", "accepted"), [((3, 10), False), ((3, 11), True), ((3, 14), True), ((3, 15), False)]
)
def test_make_refuses_another_python_with_a_clear_message(found, accepted):
    rule = re.search(r"-c '(import sys; v = .*)'$", (ROOT / "Makefile").read_text(), flags=re.M)[1]
    code = rule.replace("sys.version_info[:2]", str(found)).replace("$(PYTHON)", "python3")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode == 0) == accepted
    if not accepted:
        assert f"needs Python 3.11 to 3.14; python3 is {found[0]}.{found[1]}." in ran.stderr
