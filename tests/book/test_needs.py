"""A page without a module it needs: shown, not run, and it still says where it comes from."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from hybrid.book import notebooks
from hybrid.book.parameters import parameters


def executed(tmp_path, monkeypatch, module):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    sources = [
        "scale: str = 'laptop'  # the dial",
        f"from hybrid.book.optional_modules import shown_without\nshown_without({module!r}, 'Install it.')",
        "print('run')",
        "from hybrid.book.notebooks import provenance\n\nprovenance('01_toy', scale=scale)",
    ]
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path = tmp_path / "01_toy.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    assert parameters(path)
    out = notebooks.execute(path, tmp_path / "out.ipynb")
    return out, nbformat.read(out, as_version=4).cells


def test_with_the_module_everything_runs(tmp_path, monkeypatch):
    _, cells = executed(tmp_path, monkeypatch, "torch")
    assert not cells[1].outputs and cells[2].outputs[0].text == "run\n"


def test_without_it_the_cells_are_silent_and_the_evidence_is_there(tmp_path, monkeypatch):
    out, cells = executed(tmp_path, monkeypatch, "no_such_module")
    said = cells[1].outputs[0].data["text/plain"]
    assert "no_such_module is not installed here" in said and "Install it." in said
    assert not cells[2].outputs
    assert notebooks.evidence_of(out)["chapter"] == "01_toy"
