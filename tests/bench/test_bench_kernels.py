"""The bench: its rows, its table, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from hybrid import bench


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_rows_hold_every_implementation(one_thread, capsys):
    rows = bench.bench_kernels(lengths=(64,), repeats=2)
    assert {row["kernel"] for row in rows} == bench.CASES.keys()
    delta = {row["implementation"]: row for row in rows if row["kernel"] == "gated_delta"}
    assert delta.keys() == {
        "hybrid chunk",
        "fla naive_chunk_gated_delta_rule",
        "transformers torch_chunk_gated_delta_rule",
    }
    peers = [row["ms"] for name, row in delta.items() if name != "hybrid chunk"]
    assert all(row["ms"] > 0 and row["spread"] >= 0 and row["share"] > 0 for row in delta.values())
    assert delta["hybrid chunk"]["ratio"] == pytest.approx(delta["hybrid chunk"]["ms"] / min(peers))
    bench.print_table(rows)
    assert "transformers torch_chunk_gated_delta_rule" in capsys.readouterr().out


def test_a_peer_that_is_not_installed_has_no_numbers(monkeypatch, one_thread):
    kernel, names, _ = bench.CASES["gated_delta"]
    absent = {"absent": bench._peer("no_such_module", "function")}
    monkeypatch.setattr(bench, "CASES", {"gated_delta": (kernel, names, absent)})
    ours, peer = bench.bench_kernels(lengths=(32,), repeats=2)
    assert ours["ms"] > 0 and ours["ratio"] is None
    assert peer["implementation"] == "absent" and peer["ms"] is None


def test_a_peer_that_computes_something_else_is_refused(monkeypatch, one_thread):
    kernel, names, _ = bench.CASES["gated_delta"]
    monkeypatch.setattr(bench, "CASES", {"gated_delta": (kernel, names, {"wrong": lambda q, *_: 2 * q})})
    with pytest.raises(ValueError, match="wrong differs from our output by"):
        bench.bench_kernels(lengths=(32,), repeats=2)


def test_one_repeat_is_refused():
    with pytest.raises(ValueError, match=r"repeats must be at least 2.*; got 1"):
        bench.bench_kernels(lengths=(32,), repeats=1)
