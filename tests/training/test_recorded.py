"""A training that is played back is the training that is not."""

from __future__ import annotations

import pytest
import torch
from flat import flat_config

from hybrid.config import MIXERS, RunSpec, TaskConfig, TrainConfig
from hybrid.training.cuda_graphs import recorded
from hybrid.training.fit import fit
from hybrid.training.loop import LitModule

TASK = TaskConfig(seq_len=64, pairs=(1, 2), eval_pairs=(2,), eval_lengths=(64,), eval_sequences=4)
ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def spec(mixer="gated_deltanet", **changes) -> RunSpec:
    heads = {} if mixer == "hgrn" else {"num_heads": 2, "head_k_dim": 16, "head_v_dim": 16}
    model = flat_config(
        "LF", mixer=mixer, vocab_size=384, hidden_size=32, mlp_size=32, attn_heads=2, init_std=0.05, **heads
    )
    train = TrainConfig(steps=6, batch_size=4, warmup=2, eval_every=3, lr=1e-2, precision="32-true")
    return RunSpec(model, TASK, train, seed=1).with_(**changes)


def trained(spec, folder) -> dict[str, torch.Tensor]:
    fit(spec, checkpoint_dir=folder, progress=False)
    return torch.load(folder / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]


class Tape:
    """Stands for CUDA's recording on a CPU: computes from copies of the inputs that were recorded with."""

    def __init__(self) -> None:
        self.recordings = []

    def __call__(self, surface, samples, allow_unused_input):
        assert allow_unused_input and not torch.is_autocast_enabled("cuda")
        self.recordings.append((surface, samples))

        def play(*tensors):
            for sample, tensor in zip(samples, tensors, strict=True):
                sample.copy_(tensor)
            return surface(*samples)

        return play


@pytest.fixture
def tape(monkeypatch):
    made = Tape()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", made)
    return made


def test_a_recording_is_made_once_and_sees_every_batch(tmp_path, tape, monkeypatch):
    expected = trained(spec(), tmp_path / "live")
    modules = []
    monkeypatch.setattr(LitModule, "plays_back", lambda module: modules.append(module) or module.steady)
    actual = trained(spec(), tmp_path / "played")
    assert len(modules) == 6 and len(tape.recordings) == 1
    assert modules[0].played == {}
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_the_batch_recorded_with_stays_as_it_was(tape):
    model = torch.nn.Linear(3, 1)
    first, later = ({"x": torch.randn(2, 3)} for _ in range(2))
    before = first["x"].clone()
    play = recorded(model, lambda batch: model(batch["x"]).sum(), first)
    assert torch.equal(play(later), model(later["x"]).sum())
    assert torch.equal(first["x"], before)
    (surface, _), *_ = tape.recordings
    assert {id(p) for p in surface.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    ("steady", "world", "place", "accumulate", "plays"),
    [
        (True, 1, "cuda", 1, True),
        (False, 1, "cuda", 1, False),
        (True, 2, "cuda", 1, False),
        (True, 1, "cpu", 1, False),
        (True, 1, "cuda", 2, False),
    ],
)
def test_it_is_for_one_gpu_and_gradients_that_are_not_accumulated(steady, world, place, accumulate, plays):
    class Stub(LitModule):
        trainer = type("Trainer", (), {"world_size": world})
        device = torch.device(place)

    module = Stub(spec(accumulate=accumulate).train)
    module.steady = steady
    assert module.plays_back() is plays


@pytest.mark.parametrize("mixer", [pytest.param(mixer, marks=ON_A_GPU) for mixer in MIXERS])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_on_a_gpu_the_weights_are_those_of_a_live_training(tmp_path, monkeypatch, mixer, precision):
    run = spec(mixer, precision=precision)
    actual = trained(run, tmp_path / "played")
    monkeypatch.setattr(LitModule, "plays_back", lambda module: False)
    expected = trained(run, tmp_path / "live")
    # The same kernels in the same order, but for sums whose order a GPU does not fix.
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-4, msg=name)
