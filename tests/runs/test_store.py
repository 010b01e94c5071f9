"""The store under faults: cut files, foreign files, full disks, killed and simultaneous writers."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_training import result, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.runs.store import Result, Store, StoreError, StoreWarning

TESTS = Path(__file__).parents[1]


def start(code, **environment):
    """Run Python code, which can import the fakes, in a process of its own."""
    variables = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"} | environment
    return subprocess.Popen([sys.executable, "-c", code], env=variables, text=True, stderr=subprocess.PIPE)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_a_result_reads_back_equal(store):
    written = result(spec())
    path = store.write(written)
    assert path == store.root / "runs" / f"{spec().run_id}.json"
    assert store.read(spec()) == written
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nothing_stored_is_none(store):
    assert store.read(spec()) is None


def test_a_second_write_replaces_the_first(store):
    store.write(result(spec()))
    newer = result(spec(), metrics={"recall": 0.9})
    store.write(newer)
    assert store.read(spec()) == newer


def test_the_environment_names_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "elsewhere"))
    assert Store().root == tmp_path / "elsewhere"
    monkeypatch.delenv("HYBRID_RESULTS")
    assert Store().root == TESTS.parent / "book" / "results"


@settings(max_examples=100)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_keep_six_digits(number):
    read = Result.from_json(result(spec(), metrics={"x": number}).to_json()).metrics["x"]
    if math.isfinite(number):
        assert read == pytest.approx(number, rel=5.001e-6, abs=1e-320)
        assert len(f"{read:e}".split("e")[0].rstrip("0")) <= 8 + (read < 0)
    else:
        assert read is None


def test_files_are_standard_json_whatever_the_numbers_are():
    metrics = {
        "nan": math.nan,
        "numpy": np.float32(0.1),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "tensor": torch.tensor(2.5),
        "table": ({"n": 1, "accuracy": 1 / 3},),
        "none": None,
    }
    text = result(spec(), metrics=metrics).to_json()
    expected = {"nan": None, "numpy": 0.1, "count": 3, "flag": True, "tensor": 2.5, "none": None}
    expected["table"] = [{"n": 1, "accuracy": 0.333333}]

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)["metrics"] == expected


def test_a_table_has_one_line_of_columns():
    rows = [{"n": n, "accuracy": n / 8, "note": 'a "brace" }'} for n in range(3)]
    stored = result(spec(), metrics={"table": rows, "empty": [], "loss": 2.5})
    text = stored.to_json()
    assert Result.from_json(text) == stored
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert json.loads(text)["metrics"]["table"] == {"columns": columns}
    assert f'"columns": {json.dumps(columns)}' in [line.strip() for line in text.splitlines()]


entries = st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "a", "é"])
tables = st.lists(st.dictionaries(st.sampled_from(["n", "accuracy", "columns"]), entries), max_size=4)


@given(st.dictionaries(st.sampled_from(["columns", "by", "loss"]), entries | tables), tables)
def test_tables_are_read_back_row_by_row(metrics, curve):
    stored = result(spec(), metrics=metrics, curve=curve)
    assert Result.from_json(stored.to_json()) == stored


def test_the_spec_is_stored_unrounded(store):
    exact = spec(lr=0.12345678901234567)
    store.write(result(exact))
    assert store.read(exact).spec == exact


def test_a_cut_file_is_named_and_passed_over(store):
    path = store.write(result(spec()))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.warns(StoreWarning, match=f"{path.name} is passed over"):
            assert store.read(spec()) is None
    path.write_bytes(whole)
    assert store.read(spec()) == result(spec())


@pytest.mark.parametrize(
    "text",
    ["null", "[]", "3", '{"status": "done"}', b"\xff\xfe\x00", "<<<<<<< HEAD\n"],
    ids=["null", "list", "number", "parts missing", "binary", "merge conflict"],
)
def test_a_file_that_is_no_result_is_passed_over(store, text):
    path = store.write(result(spec()))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.warns(StoreWarning, match=str(path)):
        assert store.read(spec()) is None


@pytest.mark.parametrize("part", ["run_id", "status", "message", "spec", "metrics", "curve", "provenance"])
def test_a_part_that_is_missing_or_mistyped_is_named(store, part):
    path = store.write(result(spec()))
    parts = json.loads(path.read_text())
    for broken in ({k: v for k, v in parts.items() if k != part}, parts | {part: 3}):
        path.write_text(json.dumps(broken))
        with pytest.warns(StoreWarning, match=part):
            assert store.read(spec()) is None


def test_the_result_of_another_spec_is_passed_over(store):
    other = store.write(result(spec(seed=1)))
    other.rename(store.path(spec()))
    with pytest.warns(StoreWarning, match="another spec"):
        assert store.read(spec()) is None


def test_an_unknown_part_is_left_out_but_an_unknown_field_of_the_spec_is_not_guessed_at(store):
    path = store.write(result(spec()))
    parts = json.loads(path.read_text())
    path.write_text(json.dumps(parts | {"format": 9}))
    assert store.read(spec()) == result(spec())
    parts["spec"]["train"]["momentum"] = 0.9
    path.write_text(json.dumps(parts))
    with pytest.warns(StoreWarning, match="momentum"):
        assert store.read(spec()) is None


def test_a_spec_field_older_than_the_file_takes_its_default(store):
    path = store.write(result(spec()))
    parts = json.loads(path.read_text())
    del parts["spec"]["train"]["clip"]
    path.write_text(json.dumps(parts))
    assert store.read(spec()) == result(spec())


def test_a_result_checks_its_status_and_its_id():
    with pytest.raises(ValueError, match=r"'lost'.*done, failed"):
        result(spec(), status="lost")
    with pytest.raises(ValueError, match=spec().run_id):
        replace(result(spec()), run_id="0" * 12)


def test_a_store_below_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "results")
    assert store.read(spec()) is None
    with pytest.raises(StoreError, match=r"file/results/runs.*nothing was trained.*HYBRID_RESULTS"):
        store.probe()
    with pytest.raises(StoreError, match="the result is kept in") as caught:
        store.write(result(spec()))
    rescue = Path(str(caught.value).partition("kept in ")[2].partition("; move")[0])
    assert Result.from_json(rescue.read_text()) == result(spec())
    rescue.unlink()
    rescue.parent.rmdir()


def test_a_full_disk_is_noticed_by_the_probe_and_leaves_no_remains(store):
    code = f"""
import resource
from hybrid.runs.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
Store({str(store.root)!r}).probe()
"""
    _, errors = (process := start(code)).communicate()
    assert process.returncode == 1
    assert "StoreError" in errors and str(store.root / "runs") in errors and "nothing was trained" in errors
    assert list((store.root / "runs").iterdir()) == []


def test_the_probe_removes_old_remains_and_keeps_files_that_are_being_written(store):
    path = store.write(result(spec()))
    old, young = path.with_name(".a.json.1.tmp"), path.with_name(".b.json.2.tmp")
    for remains in (old, young):
        remains.write_text("{")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    store.probe()
    assert {p.name for p in path.parent.iterdir()} == {path.name, young.name}


WRITER = """
from fake_training import result, spec
from hybrid.runs.store import Store
name, count = {name}, {count}
for i in range(count):
    curve = [{{"step": j, "writer": name, "turn": i}} for j in range(2000)]
    Store({root!r}).write(result(spec(), curve=curve))
    Store({root!r}).write(result(spec(seed=100 * name + i % 5)))
"""


def whole(read):
    """A result whose curve comes from one write only."""
    writes = {(point["writer"], point["turn"]) for point in read.curve} if read else {None}
    return len(writes) == 1 and (read is None or len(read.curve) == 2000)


def test_processes_write_the_same_and_different_results_at_once(store):
    writers = [start(WRITER.format(name=n, count=15, root=str(store.root))) for n in (1, 2, 3)]
    seen = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while any(w.poll() is None for w in writers):
            read = store.read(spec())
            assert whole(read)
            seen += read is not None
    assert [w.communicate()[1] for w in writers] == ["", "", ""]
    assert seen > 0
    expected = {spec().run_id} | {spec(seed=100 * n + i).run_id for n in (1, 2, 3) for i in range(5)}
    assert {p.name for p in (store.root / "runs").iterdir()} == {f"{run_id}.json" for run_id in expected}


def test_a_writer_killed_at_any_time_leaves_no_half_result(store):
    for delay in (0.0, 0.003, 0.011, 0.029, 0.053):
        writer = start(WRITER.format(name=1, count=10_000, root=str(store.root)))
        store.path(spec()).unlink(missing_ok=True)
        while not store.path(spec()).exists():
            time.sleep(0.005)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert whole(store.read(spec()))
        assert store.read(spec()) is not None
