"""Chapters: their form, their execution from an empty store, and how they are executed."""

import json
import re
import shlex

import nbformat
import pytest
from conftest import CHAPTERS, ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from hybrid.book import notebooks
from hybrid.book.parameters import parameters

HEADINGS = [
    "What you will learn",
    "Reading the result",
    "What was not tested",
    "Exercises",
    "Reproduce this page",
]


def read(path):
    return nbformat.read(path, as_version=4)


def source_of(chapter):
    return ROOT / "notebooks" / f"{chapter}.ipynb"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a notebook of the given cells; tuples of tags and source are tagged cells."""
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))

    def write(*sources, name="01_toy"):
        cells = [
            new_code_cell(source, id=f"cell-{i}", metadata={"tags": tags})
            for i, (tags, source) in enumerate(s if isinstance(s, tuple) else ([], s) for s in sources)
        ]
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        return path

    return write


TOY = (["parameters"], "scale: str = 'laptop'  # the dial\nseeds: list[int] = [0, 1]  # repetitions")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_the_form_of_a_chapter(chapter):
    notebook = read(source_of(chapter))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ")
    assert len(re.findall(r"^# ", text, flags=re.M)) == 1
    headings = re.findall(r"^## (.+)$", text, flags=re.M)
    assert [heading for heading in headings if heading in HEADINGS] == HEADINGS
    assert f'costs("{chapter}")' in code[0].source
    assert f"python -m hybrid notebook {chapter} " in text
    assert re.search(rf'provenance\(\s*"{chapter}",', code[-1].source)
    given = set(re.findall(r"(\w+)=", code[-1].source)) - {"runs"}
    assert given == {parameter.name for parameter in parameters(source_of(chapter))}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_exercises_with_folded_solutions(chapter):
    text = "\n".join(c.source for c in read(source_of(chapter)).cells if c.cell_type == "markdown")
    exercises = re.findall(r"^`{3,}\{exercise(?:-start)?\}.*\n:label: (\S+)", text, flags=re.M)
    solutions = re.findall(r"^`{3,}\{solution(?:-start)?\} (\S+)\n:class: dropdown", text, flags=re.M)
    assert len(exercises) >= 3
    assert solutions == exercises


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_parameters_of_a_chapter_are_typed_and_explained(chapter):
    found = {parameter.name: parameter for parameter in parameters(source_of(chapter))}
    assert found["scale"].type == "str" and found["scale"].default == "laptop"
    assert all(len(parameter.help) > 5 for parameter in found.values())


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_committed_chapter_has_no_outputs(chapter):
    for cell in read(source_of(chapter)).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert not {"papermill", "execution"} & set(cell.metadata)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_at_smoke_scale_from_an_empty_store(chapter, smoke):
    executed = smoke(chapter)
    evidence = notebooks.evidence_of(executed)
    assert evidence["chapter"] == chapter
    assert evidence["parameters"]["scale"] == "smoke"
    record = json.loads(executed.with_suffix(".json").read_text())
    assert record == {**evidence, "seconds": record["seconds"]}
    for cell in read(executed).cells:
        figures = [
            o for o in cell.get("outputs", []) if {"image/svg+xml", "image/png"} & set(o.get("data", {}))
        ]
        if figures:
            assert len(cell.metadata.mystnb.image.alt) > 20, f"cell {cell.id} draws without a description"
            assert cell.metadata.mystnb.figure.caption, f"cell {cell.id} draws without a caption"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_that_measures_time_gets_the_machine_to_itself(chapter):
    notebook = read(source_of(chapter))
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    measures = bool(re.search(r"perf_counter|import Timer|hybrid\.bench", code))
    assert notebook.metadata.get("measures_time", False) == measures


def test_parameters_are_read_from_the_tagged_cell(write):
    lines = [
        "a: int = 1  # one",
        "b: float = 1  # two",
        "c: list[str] = ['x']  # three",
        "d: bool = False  # 4",
    ]
    found = parameters(write((["parameters"], "\n".join(lines)), "a + 1"))
    assert found == [
        ("a", "int", 1, "one"),
        ("b", "float", 1.0, "two"),
        ("c", "list[str]", ["x"], "three"),
        ("d", "bool", False, "4"),
    ]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["a = 1"], "exactly one cell tagged 'parameters'; got 0"),
        ([TOY, TOY], "exactly one cell tagged 'parameters'; got 2"),
        ([(["parameters"], "a = 1  # untyped")], r"parameter a .* must be written `name: type = value"),
        ([(["parameters"], "a: list = []  # of what?")], "parameter a .* with a type of int, float"),
        ([(["parameters"], "a: int = 1  # where a = b")], "parameter a .* without a second '='"),
        ([(["parameters"], "a: int = 'one'  # no int")], "parameter a must be of type int; got 'one'"),
    ],
)
def test_a_parameters_cell_that_says_too_little_is_refused(write, cells, message):
    with pytest.raises(ValueError, match=message):
        parameters(write(*cells))


def test_a_missing_notebook_is_named_with_those_there_are(write):
    path = write(TOY)
    with pytest.raises(FileNotFoundError, match=r"02_none\.ipynb; notebooks there: 01_toy"):
        parameters(path.with_name("02_none.ipynb"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"speed": 1}, "unknown parameter 'speed' of 01_toy; allowed: scale, seeds"),
        ({"seeds": "0"}, r"parameter seeds must be of type list\[int\]; got '0'"),
        ({"seeds": [0, "1"]}, r"parameter seeds must be of type list\[int\]"),
        ({"seeds": [True]}, r"parameter seeds must be of type list\[int\]"),
        ({"seeds": [0, 0]}, "parameter seeds must be a list of different whole numbers"),
        ({"seeds": []}, "parameter seeds must be a list of different whole numbers"),
        ({"scale": 3}, "parameter scale must be of type str; got 3"),
        ({"scale": "huge"}, "parameter scale must be one of smoke, laptop, gpu, paper; got 'huge'"),
    ],
)
def test_wrong_parameters_are_refused_by_name_before_anything_runs(write, tmp_path, given, message):
    ran = tmp_path / "ran"
    path = write(TOY, f"open({str(ran)!r}, 'w')")
    with pytest.raises(ValueError, match=message):
        notebooks.execute(path, tmp_path / "out.ipynb", given)
    assert not ran.exists() and not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("laptop", "laptop"),
        ("[0,1]", [0, 1]),
        ("[0, 1]", [0, 1]),
        ("[pure,3:1]", ["pure", "3:1"]),
        ('["pure", "24:1"]', ["pure", "24:1"]),
        ('["1", "2"]', ["1", "2"]),
        ("3e-4", 3e-4),
        ("07", "07"),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("[]", []),
        ("", ""),
    ],
)
def test_values_of_a_command_line_are_read(text, value):
    read = notebooks.parse_parameters([f"x={text}"])
    assert read == {"x": value} and type(read["x"]) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["seeds"], "name=value; got 'seeds'"),
        (["=1"], "name=value; got '=1'"),
        (["a=1", "a=2"], "parameter a is given more than once"),
        (["a=[1"], r"the value of parameter a cannot be read; got '\[1'"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        notebooks.parse_parameters(given)


def test_equal_executions_give_equal_files(write, tmp_path):
    path = write(TOY, "print(scale, seeds)")
    first, second = (
        notebooks.execute(path, tmp_path / name / "01_toy.ipynb", {"seeds": [3]}) for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()
    assert "papermill" not in first.read_text() and str(tmp_path) not in first.read_text()
    assert sorted(p.name for p in first.parent.iterdir()) == ["01_toy.ipynb"]
    cells = read(first).cells
    assert cells[1].metadata.tags == ["injected-parameters"]
    assert cells[2].outputs[0].text == "laptop [3]\n"


def test_a_default_execution_adds_no_cell(write, tmp_path):
    path = write(TOY, "scale")
    executed = notebooks.execute(path, tmp_path / "out.ipynb")
    assert [c.source for c in read(executed).cells] == [c.source for c in read(path).cells]


def test_a_failing_chapter_names_the_cell_and_keeps_what_ran(write, tmp_path):
    out = tmp_path / "out.ipynb"
    notebooks.execute(write(TOY, "1 + 1"), out)
    before = out.read_bytes()
    with pytest.raises(
        notebooks.ChapterFailed, match=r"01_toy\.ipynb failed in cell 2 .*ValueError: too bad; .*out\.failed"
    ):
        notebooks.execute(write(TOY, "raise ValueError('too bad')"), out)
    assert out.read_bytes() == before
    assert "too bad" in (tmp_path / "out.failed.ipynb").read_text()
    assert not list(tmp_path.glob(".*.ipynb"))
    notebooks.execute(write(TOY, "1 + 1"), out)
    assert not (tmp_path / "out.failed.ipynb").exists()


def test_a_killed_kernel_is_reported(write, tmp_path):
    path = write(TOY, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(notebooks.ChapterFailed, match=r"01_toy\.ipynb failed .*died"):
        notebooks.execute(path, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_costs_are_those_of_the_first_default_execution(write, tmp_path):
    assert "Not measured yet" in repr(notebooks.costs("01_toy"))
    call = "from hybrid.book.notebooks import provenance\nprovenance('01_toy', scale=scale, seeds=seeds)"
    path, out = write(TOY, call), tmp_path / "out.ipynb"
    notebooks.execute(path, out, {"seeds": [5]})
    assert "Not measured yet" in repr(notebooks.costs("01_toy"))
    notebooks.execute(path, out, {"scale": "smoke"})
    (cost,) = (tmp_path / "results" / "chapters").iterdir()
    assert cost.name.startswith("01_toy.smoke.")
    first = cost.read_bytes()
    record = json.loads(first)
    assert record["seconds"] > 0 and record["peak_memory_bytes"] > 1e6 and record["versions"]["torch"]
    shown = notebooks.costs("01_toy").html()
    assert "smoke" in shown and "no runs" in shown and record["date"][:10] in shown
    notebooks.execute(path, out, {"scale": "smoke"})
    assert cost.read_bytes() == first


def test_provenance_says_how_to_get_the_page_again(monkeypatch):
    box = notebooks.provenance("01_toy", scale="gpu", ratios=["pure", "3:1"], lr=3e-4)
    rows = dict(box.rows)
    command = rows["Command"]
    assert command.startswith("python -m hybrid notebook 01_toy -p scale=gpu ")
    words = shlex.split(command)
    assert notebooks.parse_parameters(words[6::2]) == {"scale": "gpu", "ratios": ["pure", "3:1"], "lr": 3e-4}
    assert {"Executed", "Device", "Versions", "Commit"} <= set(rows)
    stated = dict(words.split() for words in rows["Versions of the code"].split(", "))
    assert {room: int(number) for room, number in stated.items()} == box.record["rooms"]
    assert box.record["rooms"].keys() == {"models", "data", "training", "conversion", "selection", "bench"}


def test_a_box_shows_its_text_as_text():
    page = notebooks.Box("A & B", [["Command", "echo '<b>'"]]).html()
    assert "A &amp; B" in page and "<code>echo &#x27;&lt;b&gt;&#x27;</code>" in page


def test_strip_leaves_the_source_alone(write, tmp_path):
    path = write(TOY, "print(1)")
    executed = notebooks.execute(path, tmp_path / "out.ipynb")
    assert any(cell.outputs for cell in read(executed).cells)
    notebooks.strip(executed)
    assert [c.source for c in read(executed).cells] == [c.source for c in read(path).cells]
    assert not any(cell.outputs or cell.execution_count for cell in read(executed).cells)


def test_markdown_of_a_notebook_is_left_alone_by_strip(tmp_path):
    path = tmp_path / "text.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title", id="title")]), path)
    assert read(notebooks.strip(path)).cells[0].source == "# Title"


def test_a_figure_of_an_executed_chapter_becomes_a_file(write, tmp_path):
    draw = "from IPython.display import SVG\nSVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')"
    path = write(TOY, draw)
    notebook = read(path)
    notebook.cells[1].metadata["mystnb"] = {"figure": {"name": "fig-toy"}}
    nbformat.write(notebook, path)
    executed = notebooks.execute(path, tmp_path / "out" / path.name)
    drawn = notebooks.picture(executed, "fig-toy", tmp_path / "toy.svg").read_text()
    assert drawn.startswith("<svg")
    with pytest.raises(ValueError, match=r"no figure .fig-other. in .*; there are: fig-toy"):
        notebooks.picture(executed, "fig-other", tmp_path / "other.svg")
