"""What passes before anything is computed: imports, the command line, the first training step."""

from __future__ import annotations

import os
import subprocess
import sys

from hybrid.bench import BenchSpec, clock

STEP = """
from hybrid.bench.step import Step, hybrid
from hybrid.bench.train import candidates
run, _ = candidates({scale!r})["hybrid full"]
Step(run, hybrid, {device!r})()
"""
COMMANDS = {
    "import torch": ("-c", "import torch"),
    "import lightning": ("-c", "import lightning"),
    "import hybrid": ("-c", "import hybrid"),
    "python -m hybrid --help": ("-m", "hybrid", "--help"),
    "first training step": ("-c", STEP),
}
"""Name -> arguments of a fresh Python; the first rows are what others need."""


def measure(spec: BenchSpec, progress: bool) -> dict:
    """``start``, a row a command, each run by a new process: ms, spread, and the ratio of its median to
    that of ``import torch``. The first round fills the caches of the file system."""
    facts = {"scale": spec.scale, "device": spec.device}

    def run(arguments: tuple[str, ...]) -> None:
        command = [sys.executable, *(a.format(**facts) if a is STEP else a for a in arguments)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[1:])!r} failed: {done.stderr.strip()[-500:]}")

    calls = {name: lambda arguments=arguments: run(arguments) for name, arguments in COMMANDS.items()}
    seconds = clock.in_turn(calls, spec.repeats, "cpu")
    rows = [{"what": name, **clock.summary(times)} for name, times in seconds.items()]
    torch_alone = next(row["ms"] for row in rows if row["what"] == "import torch")
    return {"start": [row | {"ratio": row["ms"] / torch_alone} for row in rows]}
