"""What several test files share: chapters executed from an empty store, and the site made of them."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

# Each process that tests gets its share of the cores, and what it starts shares that: with all cores for
# everyone, threads and workers stand in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    place, count = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    if share := sorted(os.sched_getaffinity(0))[place::count]:
        os.sched_setaffinity(0, share)

import torch
from interpreted import interpret

from hybrid.book import claims_page, notebooks, status_page

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))

os.environ["HF_HUB_OFFLINE"] = "1"
# Read when triton is imported, so before any test imports it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items):
    """On a machine with a GPU, what tests the fused kernels there is for `make test-gpu` too."""
    for item in items:
        if torch.cuda.is_available() and "fused_device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


class Smoke:
    """Chapters at smoke scale, each executed at most once, by one of the processes that share the folder, and
    never from a result that was stored before."""

    def __init__(self, folder: Path) -> None:
        self.book = folder / "book"
        (self.book / "chapters").mkdir(parents=True, exist_ok=True)
        self.environment = {
            "HYBRID_RESULTS": str(folder / "results"),
            "HYBRID_CACHE": str(folder / "cache"),
        }

    def once(self, name: str) -> FileLock:
        """What a process holds while it makes something that the others will find."""
        return FileLock(self.book.parent / f"{name}.lock")

    def __call__(self, chapter: str) -> Path:
        """The executed copy of a chapter."""
        destination = self.book / "chapters" / f"{chapter}.ipynb"
        failure = self.book.parent / f"{chapter}.failed"
        with self.once(chapter), pytest.MonkeyPatch.context() as patch:
            if failure.exists():
                pytest.fail(failure.read_text(), pytrace=False)
            if not destination.exists():
                for name, value in self.environment.items():
                    patch.setenv(name, value)
                try:
                    notebooks.execute(
                        ROOT / "notebooks" / f"{chapter}.ipynb", destination, {"scale": "smoke"}
                    )
                except Exception as error:
                    failure.write_text(str(error))
                    raise
        return destination


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return Smoke(folder / "smoke")


@pytest.fixture(scope="session")
def site(smoke):
    """Folder of the rendered book, made as `make book` makes it, of chapters at smoke scale."""
    pages = smoke.book.parent / "_build" / "html"
    # From the last to the first: another process, that tests the chapters in their order, is met half-way
    # and not waited for chapter by chapter.
    for chapter in reversed(CHAPTERS):
        smoke(chapter)
    with smoke.once("site"):
        if not (pages / "index.html").exists():
            build(smoke)
    return pages


def build(smoke: Smoke) -> None:
    generated = shutil.ignore_patterns("chapters", "results", "status.md", "claims.md")
    shutil.copytree(ROOT / "book", smoke.book, dirs_exist_ok=True, ignore=generated)
    shutil.copy(ROOT / "_config.yml", smoke.book.parent)
    # An execution that was killed leaves such a copy, and the site is built all the same.
    shutil.copy(smoke(CHAPTERS[0]), smoke.book / "chapters" / ".killed.1.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in smoke.environment.items():
            patch.setenv(name, value)
        claims_page.write(smoke.book / "claims.md", "smoke")
        status_page.write(smoke.book / "status.md", smoke.book / "chapters")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book", "-W", "-n", "--keep-going"]
    built = subprocess.run(command, cwd=smoke.book.parent, capture_output=True, text=True)
    if built.returncode:
        complaints = [line for line in built.stderr.splitlines() if line.strip()]
        pytest.fail("the site is not built without a warning:\n" + "\n".join(complaints[-30:]), pytrace=False)


@pytest.fixture
def fused_device(monkeypatch):
    """Where flash-linear-attention's kernels are tested: the GPU, or a CPU that interprets them."""
    if find_spec("triton") is None:
        pytest.skip("Triton is for Linux")
    if torch.cuda.is_available():
        return "cuda"
    interpret(monkeypatch)
    return "cpu"
