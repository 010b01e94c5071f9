"""What can be measured, how it is timed, and what the command line does with it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybrid import bench
from hybrid.bench import BenchSpec, clock
from hybrid.cli import main
from hybrid.runs import trainers
from hybrid.runs.store import Store
from hybrid.studies.scales import SCALES


@pytest.mark.parametrize("scale", SCALES)
def test_a_plan_reads_back_and_names_each_subject_once(scale):
    plan = bench.plan(scale)
    assert [trainers.read(spec.to_dict()) for spec in plan] == plan
    subjects = [spec.subject for spec in plan]
    assert subjects == [s for s in bench.SUBJECTS if (s, scale) != ("start", "smoke")]
    assert {spec.device for spec in plan} == {"cuda" if scale in ("gpu", "paper") else "cpu"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subject": "train_"}, r"unknown subject 'train_'; allowed: kernels, train, decode, start"),
        ({"scale": "huge"}, r"unknown scale 'huge'; allowed: smoke, laptop, gpu, paper"),
        ({"device": "tpu"}, r"unknown device 'tpu'; allowed: cpu, cuda"),
        ({"repeats": 1}, r"repeats must be at least 2.*; got 1"),
        ({"repeats": 2.5}, r"repeats must be at least 2.*; got 2\.5"),
        ({"lengths": (64, 32)}, r"ascending; got \(64, 32\)"),
        ({"lengths": (0, 32)}, r"from 1, ascending; got \(0, 32\)"),
        ({"lengths": ()}, r"lengths belong to kernels and decode; decode got \(\)"),
        ({"subject": "train"}, r"lengths belong to kernels and decode; train got \(32,\)"),
    ],
)
def test_wrong_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        BenchSpec(**{"subject": "decode", "lengths": (32,)} | values)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device 'cuda' is not there"):
        bench.measure(BenchSpec("train", "gpu", "cuda"))


def test_candidates_take_turns_and_the_first_round_does_not_count():
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = clock.in_turn(candidates, 4, "cpu")
    assert "".join(calls) == "abc" * 5
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys("abc", 4)


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=9))
def test_a_summary_is_median_and_interquartile_range(seconds):
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    found = clock.summary(seconds)
    assert found["ms"] == pytest.approx(1e3 * middle)
    assert found["spread"] == pytest.approx((high - low) / middle, abs=1e-9)


def test_limits_are_rates_of_known_work(monkeypatch):
    monkeypatch.setattr(clock, "MATRIX", 64)
    monkeypatch.setattr(clock, "COPIED", 1 << 16)
    # Product and copy in turn: a round that warms up, then two of which the best counts.
    times = iter([9.0, 9.0, 2.0, 4.0, 1.0, 8.0])
    monkeypatch.setattr(clock, "timed", lambda function, device: function() is not None and next(times))
    rows = {row["limit"]: row for row in clock.limits("cpu", 2)}
    assert rows["product"]["rate"] == 2 * 64**3 / 1.0 and rows["product"]["ms"] == 1500
    assert rows["copy"]["rate"] == 2 * 2**16 / 4.0 and rows["copy"]["ms"] == 6000


def test_the_command_measures_prints_and_stores(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clock, "MATRIX", 64)
    monkeypatch.setattr(clock, "COPIED", 1 << 16)
    assert main(["bench", "decode", "--scale", "smoke", "--lengths", "16", "24"]) == 0
    printed = capsys.readouterr().out
    assert "hybrid pure" in printed and "transformers Llama" in printed
    (planned,) = (spec for spec in bench.plan("smoke") if spec.subject == "decode")
    result = Store().read(replace(planned, lengths=(16, 24)))
    assert {row["length"] for row in result.metrics["decode"]} == {16, 24}
    assert result.provenance["versions"]["transformers"] and result.provenance["seconds"] > 0

    assert main(["bench", "decode", "--lengths", "0"]) == 2
    assert "lengths must be whole numbers from 1, ascending; got (0,)" in capsys.readouterr().err


def test_help_needs_no_pytorch():
    program = """
import sys
from hybrid.cli import main
try:
    main(["--help"])
except SystemExit:
    sys.exit("torch" in sys.modules or "pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "bench" in done.stdout
