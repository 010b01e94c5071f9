"""The book as text and as a site: contents, status page, links, and nothing from a network address."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import CHAPTERS, ROOT
from fake_training import result, spec

from hybrid.book import notebooks, status_page
from hybrid.runs import versions
from hybrid.runs.store import Store

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}


@pytest.fixture(scope="module")
def pages(site):
    """Parsed pages of the site by their path in it."""
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }


def contents():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    return [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]


def test_every_page_and_chapter_is_in_the_contents():
    prose = {path.stem for path in (ROOT / "book").glob("*.md")} | {"status", "claims"}
    assert set(contents()) == prose | {f"chapters/{chapter}" for chapter in CHAPTERS}


def test_the_build_executes_nothing():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["execute"]["execute_notebooks"] == "off"
    assert "html_theme_options" not in config["sphinx"]["config"]


def test_every_page_is_rendered(pages):
    assert set(pages) >= {f"{name}.html" for name in contents()} | {"index.html", "search.html"}


def test_nothing_is_loaded_from_a_network_address(pages, site):
    loaded = {
        (name, element.get(LOADING[element.name]))
        for name, page in pages.items()
        for element in page.find_all(list(LOADING))
        if re.match(r"(https?:)?//", element.get(LOADING[element.name]) or "")
    }
    assert not loaded
    styles = [*site.rglob("*.css")]
    inline = [style.get_text() for page in pages.values() for style in page.find_all("style")]
    for text in [*inline, *(path.read_text(encoding="utf-8") for path in styles)]:
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", text)
    assert styles


def test_links_inside_the_book_lead_somewhere(pages, site):
    anchors = {
        name: {element.get(key) for element in page.find_all(True) for key in ("id", "name")}
        for name, page in pages.items()
    }
    broken = []
    for name, page in pages.items():
        for element in page.find_all(["a", "link", "script", "img"]):
            address = urlsplit(element.get("href") or element.get("src") or "")
            if address.scheme or address.netloc or not (address.path or address.fragment):
                continue
            target = (site / name).parent / unquote(address.path) if address.path else site / name
            page_name = target.resolve().relative_to(site.resolve()).as_posix()
            missing = unquote(address.fragment) not in anchors.get(page_name, {""}) | {""}
            if not target.is_file() or missing:
                broken.append((name, address.geturl()))
    assert not broken


def test_every_image_is_described(pages):
    images = [(name, image) for name, page in pages.items() for image in page.find_all("img")]
    assert images
    for name, image in images:
        alt = image.get("alt") or ""
        assert len(alt) > 20 and not re.search(r"\.(svg|png|jpe?g)$|/", alt), f"{name}: alt {alt!r}"


def test_formulas_are_left_to_the_browser_and_solutions_are_folded(pages):
    for chapter in CHAPTERS:
        page = pages[f"chapters/{chapter}.html"]
        assert page.select("span.math, div.math")
        assert len(page.select("div.solution.dropdown")) == len(page.select("div.exercise")) >= 3


def test_every_chapter_shows_costs_and_provenance(pages):
    for chapter in CHAPTERS:
        boxes = [box.caption.get_text() for box in pages[f"chapters/{chapter}.html"].select(".hybrid-box")]
        assert boxes == ["What it costs to run", "Where this page comes from"]


def test_the_status_page_lists_every_chapter(pages):
    links = {link.get("href") for link in pages["status.html"].select("article a")}
    assert links >= {f"chapters/{chapter}.html" for chapter in CHAPTERS}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write the status page over the given chapter records and results; returns its text."""
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(notebooks, "SOURCES", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "chapters").mkdir()

    def written(records=(), results=()):
        for record in records:
            (tmp_path / "notebooks" / f"{record['chapter']}.ipynb").touch()
            (tmp_path / "chapters" / f"{record['chapter']}.json").write_text(json.dumps(record))
        for one in results:
            Store().write(one)
        return status_page.write(tmp_path / "status.md", tmp_path / "chapters").read_text()

    written.folder = tmp_path
    return written


def record(chapter, runs=()):
    return {
        "chapter": chapter,
        "parameters": {"scale": "laptop"},
        "runs": list(runs),
        "seconds": 125.0,
        "device": "a CPU, 2 threads",
        "date": "2026-01-02T03:04:05+00:00",
    }


def test_the_status_page_counts_stale_and_failed_runs_and_says_what_changed(written, monkeypatch):
    first = {room: ("first",) for room in versions.ROOMS}
    monkeypatch.setattr(versions, "HISTORY", first | {"data": ("first", "passkeys | twice as long")})
    made = {"device": "a GPU", "seconds": 60.0, "date": "2025-01-01T00:00:00"}
    old = made | {"rooms": {"models": 1, "data": 1, "training": 1}}
    results = [
        result(spec(0), provenance=made | {"rooms": {"models": 1, "data": 2, "training": 1}}),
        result(spec(1), provenance=old),
        result(spec(2), status="failed", message="loss is nan | at step 3", provenance=old),
        result(spec(3), provenance=made | {"source_hash": "0" * 16}),
    ]
    page = written([record("08_recall", [one.run_id for one in results])], results)
    expected = "| laptop | 2026-01-02 03:04:05 UTC | 2 min | a CPU, 2 threads | 4 | 3 | 1 |"
    assert f"| {{doc}}`chapters/08_recall` {expected}" in page
    changed = r"data 1 -> 2: passkeys \| twice as long"
    times = "2025-01-01 to 2025-01-01 | 2 min |"
    assert f"| models 1, data 1, training 1 | {changed} | a GPU | 2 | 1 | {times}" in page
    assert "| models 1, data 2, training 1 |  | a GPU | 1 | 0 |" in page
    assert "| none | of code without versions | a GPU | 1 | 0 |" in page
    assert f"| {spec(2).run_id} | " in page and r"loss is nan \| at step 3" in page


def test_the_status_page_names_what_is_missing_or_broken(written):
    assert "No run is stored." in written()
    (written.folder / "notebooks" / "01_new.ipynb").touch()
    (written.folder / "notebooks" / "02_bad.ipynb").touch()
    (written.folder / "chapters" / "02_bad.failed.ipynb").touch()
    broken = written.folder / "results" / "runs" / "abc.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"cut')
    page = written()
    assert "| `01_new` |  | not executed |" in page
    assert "| `02_bad` |  | failed |" in page
    assert "| `abc.json` | " in page


def test_vendored_scripts_carry_their_licence():
    assert "Apache License" in Path(ROOT / "book" / "vendor" / "mathjax" / "LICENSE").read_text()
