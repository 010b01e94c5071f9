"""Runs with trainers that cost nothing: what is trained, what is read, and what survives a fault."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_training as fake
import pandas as pd
import pytest
import test_training
from fake_training import logged, result, spec
from flat import flat_config

from hybrid.config import MIXERS
from hybrid.runs import pool, provenance, runner, tables, versions
from hybrid.runs.store import Result, Store, StoreError, StoreWarning
from hybrid.studies.paper import paper

TESTS = Path(__file__).parents[1]
COLLECT = """
import fake_training as fake
from hybrid.runs import runner
if __name__ == "__main__":
    specs = [fake.spec(seed=seed) for seed in {seeds}]
    runner.collect(specs, train=fake.{train}, workers={workers}, progress=False)
"""


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A store, a work folder and a log of this test alone, which worker processes inherit."""
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "work"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))


def collect(specs, train=fake.train, **options):
    return runner.collect(specs, train=train, **{"workers": 1, "progress": False, **options})


def start(**parts):
    """`collect` in a process (and process group) of its own."""
    variables = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    code = COLLECT.format(**{"seeds": [0], "train": "train", "workers": 1} | parts)
    # A shell that runs the tests in the background lets their children ignore Ctrl-C.
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=variables,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return value


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def no_work_left():
    work = Path(os.environ["HYBRID_CACHE"])
    return [p for p in work.rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_missing_runs_are_trained_once_and_then_read():
    specs = [spec(seed=s) for s in (0, 1, 0, 1, 0)]
    first = collect(specs, workers=2)
    assert sorted(logged()) == [["0", "trained"], ["1", "trained"]]
    assert list(first["run_id"]) == [spec(seed=0).run_id, spec(seed=1).run_id]
    pd.testing.assert_frame_equal(collect(specs), first)
    assert len(logged()) == 2
    assert no_work_left()


def test_the_table_holds_the_spec_the_metrics_and_the_evidence():
    Store().write(
        result(
            spec(seed=3, layout="LLLF", lr=2e-3, conv=4),
            metrics={"recall": 0.25, "parameters": 1234, "recall_by": [{"pairs": 4, "accuracy": 0.25}]},
            provenance={
                "rooms": versions.today(("models", "data", "training")),
                "device": "CPU",
                "seconds": 2.0,
                "precision": "32-true",
            },
        )
    )
    row = collect([spec(seed=3, layout="LLLF", lr=2e-3, conv=4)]).iloc[0].to_dict()
    expected = {
        "run_id": spec(seed=3, layout="LLLF", lr=2e-3, conv=4).run_id,
        "status": "done",
        "message": "",
        "stale": False,
        "layout": "LLLF",
        "full_blocks": 1,
        "depth": 4,
        "mixer": "gated_deltanet",
        "conv": 4,
        "seed": 3,
        "hidden_size": 16,
        "seq_len": 128,
        "pairs": (1, 2, 4, 8, 16),
        "steps": 20,
        "lr": 2e-3,
        "precision": "auto",
        "recall": 0.25,
        "parameters": 1234,
        "device": "CPU",
        "seconds": 2.0,
        "provenance_precision": "32-true",
    }
    assert {name: row.get(name, "absent") for name in expected} == expected
    assert "recall_by" not in row and "versions" not in row
    stored = json.loads(Store().path(spec(seed=3, layout="LLLF", lr=2e-3, conv=4)).read_text())["spec"]
    parts = [part for part in stored.values() if isinstance(part, dict)]
    assert {name for part in parts for name, value in part.items() if not isinstance(value, dict)} <= set(row)
    # A part inside the model gives a column to each of its fields, under its own name.
    assert (row["linear_mixer"], row["attention_num_heads"], row["mlp_kind"]) == (
        "gated_deltanet",
        2,
        "swiglu",
    )


def test_long_tables_have_a_row_an_entry():
    specs = [spec(seed=0), spec(seed=1), spec(seed=2)]
    for s in specs[:2]:
        Store().write(result(s))
    curves = runner.curves(specs)
    assert list(zip(curves["seed"], curves["step"], curves["recall"], strict=True)) == [
        (0, 10, 0.1),
        (0, 20, 0.5),
        (1, 10, 0.1),
        (1, 20, 0.5),
    ]
    detail = runner.detail(specs, "recall_by")
    assert list(zip(detail["seed"], detail["pairs"], detail["n"], strict=True)) == [(0, 4, 64), (1, 4, 64)]
    assert set(detail["task_pairs"]) == {(1, 2, 4, 8, 16)}
    with pytest.raises(ValueError, match=r"'recal_by'.*recall_by"):
        runner.detail(specs, "recal_by")
    assert runner.detail([spec(seed=2)], "recall_by").empty


def test_a_failed_run_is_kept_shown_and_trained_again_only_on_request():
    for _ in range(2):
        row = collect([spec()], train=fake.diverge).iloc[0]
        assert (row["status"], row["message"]) == ("failed", "the loss was not finite at step 3")
    assert logged() == [["0", "diverged"]]
    row = collect([spec()], recompute=True).iloc[0]
    assert (row["status"], row["message"], row["recall"]) == ("done", "", 0.5)


def test_a_result_of_another_version_is_kept_and_marked(monkeypatch):
    first = {room: ("first",) for room in versions.ROOMS}
    monkeypatch.setattr(versions, "HISTORY", first | {"data": ("first", "other words")})
    now = {"models": 1, "data": 2, "training": 1}
    facts = {"commit": "c0ffee", "dirty": True, "device": "a GPU", "versions": {"torch": "0"}, "date": "1970"}
    made = [
        {"rooms": now},
        {"rooms": now} | facts,
        {"rooms": now | {"bench": 7}},
        {"rooms": now | {"data": 1}},
        {"rooms": {"models": 1, "data": 2}},
        {"rooms": "models"},
        {"source_hash": "0" * 16},
    ]
    specs = [spec(seed=seed) for seed in range(len(made))]
    for one, evidence in zip(specs, made, strict=True):
        Store().write(result(one, provenance=evidence))
    assert list(collect(specs)["stale"]) == [False] * 3 + [True] * 4
    assert tables.moved(Store().read(specs[0])) == []
    assert tables.moved(Store().read(specs[3])) == ["data 1 -> 2: other words"]
    assert logged() == []


def test_a_checkpoint_of_another_version_is_not_resumed(monkeypatch):
    folder = runner.work_folder(spec(seed=1))
    assert folder.name == versions.tag(("models", "data", "training"))
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_text("4")
    monkeypatch.setitem(versions.HISTORY, "training", (*versions.HISTORY["training"], "another optimiser"))
    runner.train_one(spec(seed=1), fake.train_in_steps)
    assert [line[2] for line in logged()] == ["0"]


def test_a_cut_file_is_named_and_trained_again():
    path = Store().write(result(spec()))
    path.write_text(path.read_text()[:100])
    with pytest.warns(StoreWarning, match=path.name):
        frame = collect([spec()])
    assert list(frame["status"]) == ["done"] and logged() == [["0", "trained"]]
    assert Result.from_json(path.read_text()) == result(spec())


def time_is_up_when(monkeypatch, condition):
    """The pool's time ends at an event instead of a moment: tests run on machines of any speed."""
    wait = pool.wait

    def until_then(connections, seconds):
        while not (answered := wait(connections, 0.02)):
            if condition():
                return []
        return answered

    monkeypatch.setattr(pool, "wait", until_then)


def test_runs_under_way_when_the_time_is_up_are_ended_and_go_on_later(monkeypatch):
    specs = [spec(seed=s) for s in (1, 0, 2)]
    checkpoint = runner.work_folder(spec()) / "last.ckpt"
    with monkeypatch.context() as patch:
        time_is_up_when(patch, lambda: checkpoint.exists() and checkpoint.read_text() == "4")
        with pytest.warns(UserWarning, match="2 of 3 runs were not finished within 60 minutes"):
            frame = collect(specs, train=fake.train_in_steps, minutes=60)
    assert list(frame["status"]) == ["done", "missing", "missing"]
    assert frame["recall"].isna().tolist() == [False, True, True]
    assert not alive(int(logged()[1][-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(collect(specs, minutes=0)["status"]) == ["done", "missing", "missing"]
    assert list(collect(specs, train=fake.train_in_steps, minutes=60)["status"]) == ["done"] * 3
    started = [(line[0], line[2]) for line in logged()]
    assert started == [("1", "0"), ("0", "0"), ("0", "4"), ("2", "0")]
    assert no_work_left()


def test_no_run_starts_when_there_is_no_time():
    with pytest.warns(UserWarning, match="1 of 1 runs were not finished within 1e-09 minutes"):
        assert list(collect([spec()], minutes=1e-9)["status"]) == ["missing"]
    assert logged() == []


def test_a_training_ended_by_the_time_and_resumed_is_the_whole_one(monkeypatch):
    """In pieces, as on a GPU that is lent for minutes: metrics and curve to the last stored digit."""
    import torch

    tiny = test_training.spec(steps=60, eval_every=10)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    checkpoint = runner.work_folder(tiny) / "last.ckpt"
    with monkeypatch.context() as patch:
        time_is_up_when(patch, checkpoint.exists)
        with pytest.warns(UserWarning, match="1 of 1 runs were not finished"):
            runner.collect([tiny], minutes=60, progress=False)
    assert 10 <= torch.load(checkpoint, weights_only=True)["global_step"] < 60
    assert list(runner.collect([tiny], progress=False)["status"]) == ["done"]
    resumed = Store().read(tiny)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = Result.from_json(test_training.fit(tiny, progress=False).to_json())
    torch.set_num_threads(threads)
    assert resumed.metrics == whole.metrics
    assert resumed.curve == whole.curve


def test_a_killed_worker_takes_only_its_own_run_with_it():
    specs = [spec(seed=s) for s in range(4)]
    with pytest.raises(runner.RunError, match="1 of 4") as caught:
        collect(specs, train=fake.killed_at_seed_1, workers=2)
    assert f"{spec(seed=1).run_id} (gated_deltanet LLF, seed 1): its process was killed by SIGKILL" in str(
        caught.value
    )
    assert sorted(seed for seed, _ in logged()) == ["0", "2", "3"]
    assert list(collect(specs)["status"]) == ["done"] * 4
    assert len(logged()) == 4


def test_an_error_is_named_with_its_run_and_the_others_go_on():
    specs = [spec(seed=s) for s in range(3)]
    with pytest.raises(runner.RunError, match="no such layer") as caught:
        collect(specs, train=fake.wrong_at_seed_1)
    assert "fake_training.py" in str(caught.value)
    assert list(collect(specs, minutes=0)["status"]) == ["done", "missing", "done"]


def test_workers_that_cannot_start_end_the_call(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        COLLECT.format(seeds=list(range(9)), train="train", workers=2).replace(
            "if __name__", "if 1 or __name__"
        )
    )
    variables = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    done = subprocess.run([sys.executable, str(script)], env=variables, text=True, capture_output=True)
    assert "could not start" in done.stderr.strip().splitlines()[-1] and "__main__" in done.stderr
    assert done.returncode == 1 and logged() == []


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    specs = [spec(seed=s) for s in range(3)]
    before = os.environ.get("OMP_NUM_THREADS")
    collect(specs, train=fake.report_threads, workers=3)
    assert [threads for _, threads in logged()] == ["2", "2", "2"]
    assert os.environ.get("OMP_NUM_THREADS") == before
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert runner._environments(None, [spec()] * 99) == [{"OMP_NUM_THREADS": "1"}] * 7
    assert runner._environments(None, [spec()] * 2) == [{"OMP_NUM_THREADS": "3"}] * 2
    assert runner._environments(1, [spec()] * 5) == [{"OMP_NUM_THREADS": "7"}]


def test_workers_share_the_gpus(monkeypatch):
    """As many on each as its memory and the cores allow; a model that fills one is alone on it."""
    memory = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda gpu: memory)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def gpus(workers, a_run):
        return [e["CUDA_VISIBLE_DEVICES"] for e in runner._environments(workers, [a_run] * 20)]

    large = paper("1.3b", "gla", "pure")
    assert gpus(None, spec()) == ["0", "1"] * 6
    assert gpus(None, large) == ["0", "1"]
    assert gpus(3, large) == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpus(None, large) == ["3", "5"]


def test_what_starts_from_a_run_holds_three_of_it():
    from hybrid.studies import selection

    align = selection.alignment("gpu", 0)
    memory = 80 * 2**30
    assert 1 <= runner.runs_a_gpu(align, memory) < runner.runs_a_gpu(align.teacher, memory)
    for work in (*selection.selections("gpu")["FlashMorph"], *selection.masks("gpu")["dense"]):
        assert runner.runs_a_gpu(work, memory) == runner.runs_a_gpu(align, memory)
    longer = replace(align, stage=replace(align.stage, seq_len=64 * align.teacher.task.seq_len))
    assert runner.runs_a_gpu(longer, memory) < runner.runs_a_gpu(align, memory)


@pytest.mark.parametrize("mixer", [*MIXERS, "full"])
def test_runs_a_gpu_allow_for_all_that_the_backward_pass_keeps(mixer):
    """What autograd keeps under bfloat16 autocast, counted on a CPU, where kernels keep the most."""
    import torch

    from hybrid.models.hybrid_lm import HybridLM

    layout = "FF" if mixer == "full" else "LL"
    heads = {} if mixer == "full" else MIXERS[mixer].heads_like(4, 64)
    widths = {"vocab_size": 768, "hidden_size": 256, "mlp_size": 768, "attn_heads": 4}
    small = flat_config(layout, "gla" if mixer == "full" else mixer, conv=4, **widths, **heads)
    model, kept = HybridLM(small), {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(8, 256, dtype=torch.long)
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        output = model(ids, labels=ids)
    held = output.loss.isfinite() and sum(kept.values())
    allowed = runner.CHANNEL_BYTES * 2 * 256 + 10 * 768
    assert 0.3 * allowed < held / ids.numel() < allowed


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"workers": 1.5}, {"minutes": -1}, {"minutes": float("nan")}], ids=str
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be .*got {next(iter(wrong.values()))}"):
        collect([spec()], **wrong)
    with pytest.raises(ValueError, match="run specs; got 'LLF'"):
        collect(["LLF"])


def test_a_store_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "file" / "results"))
    with pytest.raises(StoreError, match=r"file/results/runs.*nothing was trained"):
        collect([spec()])
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "file" / "work"))
    with pytest.raises(StoreError, match=r"file/work.*nothing was trained.*HYBRID_CACHE"):
        runner.train_one(spec(), fake.train)
    assert logged() == []


def test_a_result_that_cannot_be_stored_is_kept_elsewhere():
    with pytest.raises(runner.RunError, match="the result is kept in") as caught:
        collect([spec()], train=fake.lose_the_store)
    rescue = Path(str(caught.value).partition("kept in ")[2].partition("; move")[0])
    assert Result.from_json(rescue.read_text()) == result(spec())
    rescue.unlink()
    rescue.parent.rmdir()
    assert not no_work_left()


def test_a_disk_that_is_full_after_training_keeps_the_checkpoint():
    with pytest.raises(runner.RunError, match="its checkpoint is kept"):
        collect([spec()], train=fake.fill_the_disk)
    assert (runner.work_folder(spec()) / "last.ckpt").read_text() == "20"
    assert Store().read(spec()) is None and list((Store().root / "runs").iterdir()) == []


def test_a_run_killed_with_its_starter_resumes_from_its_checkpoint():
    process = start(train="train_in_steps", seeds=[1, 0])
    checkpoint = runner.work_folder(spec()) / "last.ckpt"
    until(lambda: checkpoint.exists() and checkpoint.read_text() == "4")
    worker = next(int(line[-1]) for line in logged() if line[0] == "0")
    process.kill()
    process.communicate()
    until(lambda: not alive(worker))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Store().read(spec(seed=1)) == result(spec(seed=1))
        assert Store().read(spec()) is None
    collect([spec(seed=1), spec()], train=fake.train_in_steps)
    assert [(line[0], line[2]) for line in logged()] == [("1", "0"), ("0", "0"), ("0", "4")]
    assert Store().read(spec()) == result(spec()) and no_work_left()


def test_ctrl_c_ends_the_workers_and_keeps_what_is_finished():
    process = start(train="train_in_steps", seeds=[1, 0])
    worker = until(lambda: [int(line[-1]) for line in logged() if line[0] == "0"])[0]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and errors.rstrip().endswith("KeyboardInterrupt")
    until(lambda: not alive(worker))
    assert Store().read(spec(seed=1)) == result(spec(seed=1))
    assert Store().read(spec()) is None


def test_two_processes_do_not_train_the_same_run():
    processes = [start(train="train_slowly", seeds=[0, 1], workers=2) for _ in range(2)]
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert sorted(logged()) == [["0", "trained"], ["1", "trained"]]


def test_only_the_first_process_of_a_distributed_run_stores(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runner.train_one(spec(), fake.train) == result(spec())
    assert Store().read(spec()) is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert runner.train_one(spec(), fake.train) == Store().read(spec()) == result(spec())


def test_a_trainer_that_returns_another_runs_result_is_refused():
    with pytest.raises(ValueError, match=spec(seed=1).run_id):
        runner.train_one(spec(), lambda spec, **options: result(fake.spec(seed=1)))
    assert Store().read(spec()) is None


def test_specs_pass_through_files(tmp_path):
    specs = [spec(seed=s, lr=1e-5) for s in (0, 1)]
    paths = runner.write_specs([*specs, *specs], tmp_path / "specs")
    assert [path.name for path in paths] == [f"{s.run_id}.json" for s in specs]
    times = [path.stat().st_mtime_ns for path in paths]
    assert runner.write_specs(specs, tmp_path / "specs") == paths
    assert [path.stat().st_mtime_ns for path in paths] == times
    assert [runner.read_spec(path) for path in paths] == specs
    paths[0].write_text('{"model": {}')
    with pytest.raises(ValueError, match=f"{paths[0].name} is no run spec"):
        runner.read_spec(paths[0])


def test_the_evidence_is_complete_and_plain():
    import numpy as np
    import torch

    provenance.reset_peak_memory()
    evidence = provenance.collect(seconds=4.0, tokens=1000, rooms=["models", "bench"], precision="32-true")
    assert json.loads(json.dumps(evidence)) == evidence
    assert evidence["versions"]["torch"] == torch.__version__
    assert evidence["versions"]["numpy"] == np.__version__
    assert evidence["tokens_per_second"] == 250 and evidence["precision"] == "32-true"
    assert evidence["rooms"] == {"models": versions.version("models"), "bench": versions.version("bench")}
    assert pd.Timestamp(evidence["date"]).utcoffset() == pd.Timedelta(0)
    assert provenance.collect(seconds=0.0, tokens=0, rooms=[])["tokens_per_second"] is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux measures one run alone")
def test_peak_memory_is_that_of_the_run_alone():
    def peak(megabytes):
        provenance.reset_peak_memory()
        block = bytearray(os.urandom(1)) * (megabytes << 20)
        del block
        return provenance.peak_memory() / 2**20

    large, small = peak(400), peak(50)
    assert 300 < large - small < 400


def test_the_commit_is_known_in_a_checkout_and_none_outside(tmp_path, monkeypatch):
    known = provenance.commit()
    if (TESTS.parent / ".git").exists():
        assert len(known["commit"]) == 40 and known["dirty"] in (True, False)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == {"commit": None, "dirty": None}
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == {"commit": None, "dirty": None}


def test_snakemake_trains_what_is_missing_of_a_study():
    from hybrid.studies.catalogue import study

    specs = study("recall_rates", "smoke")
    for s in specs[2:]:
        Store().write(result(s))
    command = [sys.executable, "-m", "snakemake", "runs", "--dry-run", "--cores", "1", "--quiet", "rules"]
    plan = subprocess.run(
        [*command, "--config", "study=recall_rates", "scale=smoke"],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
    )
    assert plan.returncode == 0, plan.stderr
    jobs = dict(line.split() for line in (plan.stdout + plan.stderr).splitlines() if len(line.split()) == 2)
    assert (jobs["train"], jobs["runs"]) == ("2", "1")
