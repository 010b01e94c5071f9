"""The bench of the kernels: its rows, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from hybrid.bench import BenchSpec, kernels


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spec(length):
    return BenchSpec("kernels", "smoke", repeats=2, lengths=(length,))


def test_rows_hold_every_implementation():
    tables = kernels.measure(spec(64), progress=False)
    rows = tables["kernels"]
    assert {row["kernel"] for row in rows} == kernels.CASES.keys()
    delta = {row["implementation"]: row for row in rows if row["kernel"] == "gated_delta"}
    assert delta.keys() == {
        "hybrid chunk",
        "fla naive_chunk_gated_delta_rule",
        "transformers torch_chunk_gated_delta_rule",
    }
    peers = [row["ms"] for name, row in delta.items() if name != "hybrid chunk"]
    assert all(row["ms"] > 0 and row["spread"] >= 0 and row["share"] > 0 for row in delta.values())
    assert delta["hybrid chunk"]["ratio"] == pytest.approx(delta["hybrid chunk"]["ms"] / min(peers))
    peak = next(row["rate"] for row in tables["limits"] if row["limit"] == "product")
    assert all(row["share"] == pytest.approx(1e9 * row["gflops"] / peak) for row in delta.values())


def test_a_peer_that_is_not_installed_has_no_numbers(monkeypatch):
    kernel, names, _ = kernels.CASES["gated_delta"]
    absent = {"absent": kernels._peer("no_such_module", "function")}
    monkeypatch.setattr(kernels, "CASES", {"gated_delta": (kernel, names, absent)})
    ours, peer = kernels.measure(spec(32), progress=False)["kernels"]
    assert ours["ms"] > 0 and ours["ratio"] is None
    assert peer["implementation"] == "absent" and peer["ms"] is None


def test_a_peer_that_computes_something_else_is_refused(monkeypatch):
    kernel, names, _ = kernels.CASES["gated_delta"]
    monkeypatch.setattr(kernels, "CASES", {"gated_delta": (kernel, names, {"wrong": lambda q, *_: 2 * q})})
    with pytest.raises(ValueError, match="wrong differs from our output by"):
        kernels.measure(spec(32), progress=False)
