"""What several test files share: chapters executed from an empty store, and the site made of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Two processes that take two threads each stand in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from hybrid import claims_page, notebooks, status

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))

os.environ["HF_HUB_OFFLINE"] = "1"
# Read when triton is imported, so before any test imports it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items):
    """What reads the site or its chapters runs in one process of several, which makes them once."""
    for item in items:
        if {"smoke", "site"} & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group("site"))


class Smoke:
    """Chapters at smoke scale, each executed at most once and never from a stored result."""

    def __init__(self, folder: Path) -> None:
        self.book = folder / "book"
        self.environment = {
            "HYBRID_RESULTS": str(folder / "results"),
            "HYBRID_CACHE": str(folder / "cache"),
        }
        self.failures: dict[str, Exception] = {}

    def __call__(self, chapter: str) -> Path:
        """The executed copy of a chapter."""
        destination = self.book / "chapters" / f"{chapter}.ipynb"
        if chapter in self.failures:
            raise self.failures[chapter]
        if not destination.exists():
            source = ROOT / "notebooks" / f"{chapter}.ipynb"
            with pytest.MonkeyPatch.context() as patch:
                for name, value in self.environment.items():
                    patch.setenv(name, value)
                try:
                    notebooks.execute(source, destination, {"scale": "smoke"})
                except Exception as error:
                    self.failures[chapter] = error
                    raise
        return destination


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    return Smoke(tmp_path_factory.mktemp("smoke"))


@pytest.fixture(scope="session")
def site(smoke):
    """Folder of the rendered book, made as `make book` makes it, of chapters at smoke scale."""
    for chapter in CHAPTERS:
        smoke(chapter)
    generated = shutil.ignore_patterns("chapters", "results", "status.md", "claims.md")
    shutil.copytree(ROOT / "book", smoke.book, dirs_exist_ok=True, ignore=generated)
    shutil.copy(ROOT / "_config.yml", smoke.book.parent)
    # An execution that was killed leaves such a copy, and the site is built all the same.
    shutil.copy(smoke(CHAPTERS[0]), smoke.book / "chapters" / ".killed.1.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in smoke.environment.items():
            patch.setenv(name, value)
        claims_page.write(smoke.book / "claims.md", "smoke")
        status.write(smoke.book / "status.md", smoke.book / "chapters")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book", "-W", "-n", "--keep-going"]
    built = subprocess.run(command, cwd=smoke.book.parent, capture_output=True, text=True)
    if built.returncode:
        complaints = [line for line in built.stderr.splitlines() if line.strip()]
        pytest.fail("the site is not built without a warning:\n" + "\n".join(complaints[-30:]), pytrace=False)
    return smoke.book.parent / "_build" / "html"
