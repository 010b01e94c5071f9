"""A mixer is one file: one defined here goes everywhere, and no other file knows the names of the others."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from hybrid import figures
from hybrid.checkpoints.checkpoint import load, save
from hybrid.config import (
    MIXERS,
    AttentionConfig,
    LinearConfig,
    MLPConfig,
    ModelConfig,
    RunSpec,
    TaskConfig,
    TrainConfig,
)
from hybrid.config.registry import Registry
from hybrid.conversion.carry_over import carry_over
from hybrid.conversion.specs import student_config
from hybrid.figures.stack import stack
from hybrid.kernels import gated_outer
from hybrid.mixers.base import LinearMixer, Look, mixer
from hybrid.mixers.heads import Heads, plain_heads
from hybrid.models import cost
from hybrid.models.hybrid_lm import HybridLM
from hybrid.runs import runner

PACKAGE = Path(figures.__file__).parents[1]
TASK = TaskConfig(
    corpus_tokens=100_000, seq_len=32, recall_fraction=0.0, eval_lengths=(32,), eval_sequences=4
)
TRAIN = TrainConfig(steps=12, batch_size=4, warmup=2, lr=1e-2, eval_every=6)


@pytest.fixture
def forgetful(monkeypatch):
    """A mixer of its own: outer products that decay by one rate a head, which is learnt."""
    monkeypatch.setattr(MIXERS, "classes", dict(MIXERS._load()))

    @mixer("forgetful")
    class Forgetful(LinearMixer):
        label = "Forgetful"
        look = Look("#227711", "p")
        flops_per_element = 5

        def __init__(self, config: ModelConfig, heads: Heads | None = None) -> None:
            super().__init__(config, heads)
            hidden, num = config.hidden_size, self.heads.num
            self.q_proj = nn.Linear(hidden, num * self.heads.k, bias=False)
            self.k_proj = nn.Linear(hidden, num * self.heads.k, bias=False)
            self.v_proj = nn.Linear(hidden, num * self.heads.v, bias=False)
            self.rate = nn.Parameter(torch.empty(num))
            self.o_proj = nn.Linear(num * self.heads.v, hidden, bias=False)

        @classmethod
        def heads_of(cls, config: ModelConfig) -> Heads:
            return plain_heads(config, 2, config.hidden_size, config.hidden_size)

        def draw(self, slow: bool) -> None:
            nn.init.constant_(self.rate, 3.0)

        def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
            q, k = (p(x).unflatten(-1, (-1, self.heads.k)) for p in (self.q_proj, self.k_proj))
            v = self.v_proj(x).unflatten(-1, (-1, self.heads.v))
            decay = nn.functional.logsigmoid(self.rate).expand(*x.shape[:2], -1)
            o, s = gated_outer(q, k, v, decay, state and state[0])
            return self.o_proj(o.flatten(-2)), (s,)

    return Forgetful


def config_of(layout: str = "LLF") -> ModelConfig:
    return ModelConfig(
        layout,
        LinearConfig("forgetful", num_heads=2),
        AttentionConfig(2),
        mlp=MLPConfig(size=24),
        vocab_size=256,
        hidden_size=16,
    )


def test_a_mixer_defined_here_goes_everywhere(forgetful, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"unknown mixer 'forgotten'; allowed: .*forgetful"):
        ModelConfig("L", "forgotten")
    config = config_of()
    spec = RunSpec(config, TASK, TRAIN)
    assert RunSpec.from_dict(spec.to_dict()) == spec and spec.title.startswith("forgetful LLF")

    # Cost: counted by hand.
    matrices, mlp = 4 * 16 * 16, 3 * 16 * 24
    assert cost.parameters(config) == 2 * 256 * 16 + 3 * (matrices + mlp + 2 * 16) + 2 * 2 + 16
    assert cost.state_bytes(config) == 2 * 4 * 2 * 8 * 8
    assert cost.cache_bytes(config, 10) == 2 * 2 * 16 * 10
    assert cost.flops_by_part(config, 1)["state"] == 2 * 5 * 2 * 8 * 8 + 4 * 16

    # Training, and the table of runs.
    assert runner.train_one(spec, progress=False).status == "done"
    table = runner.collect([spec], minutes=0, progress=False)
    assert table["status"].tolist() == ["done"] and table["mixer"].tolist() == ["forgetful"]

    # Saving, loading, generating: the state carries what the prompt said.
    torch.manual_seed(0)
    model = HybridLM(config).eval()
    assert model.model.layers[0].attn.rate.tolist() == [3.0, 3.0]
    with pytest.warns(UserWarning, match="a model of forgetful"):
        save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    ids = torch.randint(256, (2, 9))
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert torch.equal(again.generate(ids, 5, chunk=4), model.generate(ids, 5))

    # Figures, and a conversion.
    assert figures.MIXER_STYLE["forgetful"].label == "Forgetful"
    frame = pd.DataFrame({"x": [1, 2], "y": [1.0, 2.0], "mixer": ["forgetful"] * 2, "seed": [0, 0]})
    drawn = figures.curves_with_interval(frame, "x", "y", "mixer", xlabel="x", ylabel="y")
    assert "Forgetful" in [text.get_text() for legend in drawn.legends for text in legend.texts]
    assert any("Forgetful" in text.get_text() for text in stack("LF", "forgetful").axes[0].texts)
    teacher = HybridLM(config_of("FF"))
    student = HybridLM(student_config(teacher.config, "LF", "forgetful"))
    taken = {name.split(".attn.")[1] for name in carry_over(teacher, student)}
    assert taken == {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"}


def test_a_name_is_registered_once():
    table = Registry("part", "hybrid.models.mlps")
    table.register("one")(type("One", (), {}))
    with pytest.raises(ValueError, match="the part 'one' is registered already, as One"):
        table.register("one")(type("Other", (), {}))


def test_no_other_file_holds_the_name_of_a_mixer():
    """Studies, claims and the readings of the paper's text are about certain mixers; two files name functions
    of other libraries."""
    about_some = {"mixers", "studies", "claims", "papers"}
    of_others = {Path("kernels/fused.py"), Path("bench/kernels.py")}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        if place.parts[0] in about_some or place in of_others:
            continue
        words = {
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
        }
        assert not words & {*MIXERS, *(kind.fla.model_type for kind in MIXERS.values())}, place


EXAMPLE = """
import torch
from hybrid.config import MIXERS, LinearConfig, ModelConfig
from hybrid.figures.stack import stack
from hybrid.models import cost
from hybrid.models.hybrid_lm import HybridLM

torch.manual_seed(0)
config = ModelConfig("LLPF", LinearConfig("additive", num_heads=2), vocab_size=50, hidden_size=64)
model, ids = HybridLM(config).double(), torch.randint(50, (2, 19))
assert cost.parameters(config) == sum(p.numel() for p in model.parameters())
loss = model(ids, labels=ids).loss
loss.backward()
state = model(ids[:, :11]).state
rest = model(ids[:, 11:], state=state).logits
torch.testing.assert_close(rest, model(ids).logits[:, 11:])
stack("LLPF", "additive")
print(sorted(MIXERS)[0], model.generate(ids, 3).shape)
"""


def test_the_mixer_of_the_guide_is_one_file(tmp_path):
    guide = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    (written,) = re.findall(r"```python\n(.*?)```", guide, flags=re.S)
    shutil.copytree(PACKAGE, tmp_path / "hybrid", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "hybrid" / "mixers" / "additive.py").write_text(written)
    shutil.copytree(PACKAGE.parent / "book" / "published", tmp_path / "book" / "published")
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["additive", "torch.Size([2,", "22])"], done.stderr
