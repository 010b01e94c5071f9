"""Weights kept for later work: made once, whole or not at all."""

import os
import signal
import subprocess
import sys
import time

import pytest
from flat import flat_config

from hybrid.config import RunSpec, TaskConfig, TrainConfig
from hybrid.runs import versions
from hybrid.runs.kept_weights import kept

SPEC = RunSpec(flat_config("FF", hidden_size=16, attn_heads=2), TaskConfig(), TrainConfig())
MAKER = """
import sys, time
from pathlib import Path
from hybrid.runs.kept_weights import kept
sys.path[:0] = [{here!r}, {tests!r}]
from test_weights import SPEC

def make(folder, checkpoints):
    Path({log!r}).open("a").write("made\\n")
    checkpoints.mkdir(exist_ok=True)
    before = (checkpoints / "last").exists()
    (checkpoints / "last").write_text("half way")
    folder.mkdir()
    (folder / "one").write_text("1")
    time.sleep({seconds})
    (folder / "two").write_text("resumed" if before else "fresh")

print(kept(SPEC, make))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a process that makes the weights in so many seconds, and says where they lie."""
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path))

    def process(seconds: float) -> subprocess.Popen:
        here = os.path.dirname(__file__)
        code = MAKER.format(
            here=here, tests=os.path.dirname(here), log=str(tmp_path / "log"), seconds=seconds
        )
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    return process


def test_two_processes_make_them_once(start, tmp_path):
    processes = [start(0.5) for _ in range(2)]
    first, second = (process.communicate(timeout=120)[0] for process in processes)
    assert first == second
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_killed_process_leaves_nothing_but_its_checkpoints(start, tmp_path):
    process = start(60)
    while not list(tmp_path.glob("weights/*.half/one")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not [path for path in tmp_path.glob("weights/*") if not path.suffix]
    folder = kept(SPEC, lambda folder, checkpoints: resume(folder, checkpoints))
    assert sorted(path.name for path in folder.iterdir()) == ["two"]
    assert (folder / "two").read_text() == "half way"
    assert [path.name for path in tmp_path.glob("weights/*") if path.suffix != ".lock"] == [folder.name]


def resume(folder, checkpoints) -> None:
    folder.mkdir()
    (folder / "two").write_text((checkpoints / "last").read_text())


def test_weights_that_cannot_be_made_are_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path))

    def fail(folder, checkpoints):
        folder.mkdir()
        raise ArithmeticError("diverged")

    with pytest.raises(ArithmeticError):
        kept(SPEC, fail)
    folder = kept(SPEC, lambda folder, checkpoints: folder.mkdir())
    assert folder == kept(SPEC, fail)
    other = kept(SPEC.with_(seed=1), lambda folder, checkpoints: folder.mkdir())
    assert other != folder and SPEC.run_id in folder.name


def test_weights_of_another_version_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path))
    old = kept(SPEC, lambda folder, checkpoints: folder.mkdir())
    assert old.name == f"{SPEC.run_id}-{versions.tag(SPEC.rooms)}"
    monkeypatch.setitem(versions.HISTORY, "models", (*versions.HISTORY["models"], "another gate"))
    new = kept(SPEC, lambda folder, checkpoints: folder.mkdir())
    assert new != old and new.name == f"{SPEC.run_id}-{versions.tag(SPEC.rooms)}" and old.exists()
