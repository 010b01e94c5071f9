"""The evidence a result carries: which code, libraries and machine made it, and at what cost; and
which older code was seen to give the same results as newer code."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import platform
import re
import subprocess
import sys
import tokenize
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from hybrid.config.files import write_atomically
from hybrid.runs.store import Store, StoreWarning

PACKAGE = Path(__file__).parents[1]
SOURCES = {
    "run": (
        "layout.py",
        "config/*.py",
        "model.py",
        "training.py",
        "loop.py",
        "recorded.py",
        "evaluation.py",
        "kernels/__init__.py",
        "kernels/attention.py",
        "kernels/autograd.py",
        "kernels/chunk.py",
        "kernels/device.py",
        "kernels/fused.py",
        "kernels/fused_parts.py",
        "kernels/primitives.py",
        "kernels/recurrent.py",
        "mixers/*.py",
        "data/*.py",
    ),
    "conversion": (
        "conversion.py",
        "distillation.py",
        "checkpoint.py",
        "huggingface.py",
        "fla_config.py",
        "fla_families.py",
    ),
    "selection": tuple(
        f"selection/{name}.py"
        for name in (
            "base",
            "run",
            "drawn",
            "scored",
            "restored",
            "exhaustive",
            "flashmorph",
            "hard_concrete",
            "masks",
            "lagrangian",
            "consa",
        )
    ),
    "bench": ("bench/*.py",),
}
"""The files of the package that decide what is computed, in layers; see `RESTS_ON`. Figures, commands and
studies, which say what to compute, are in none, nor is a kernel that no backend runs."""
RESTS_ON = {
    "run": ("run",),
    "conversion": ("run", "conversion"),
    "selection": ("run", "conversion", "selection"),
    "bench": ("run", "bench"),
}
"""Layer -> the layers whose files decide its results."""
LIBRARIES = ("torch", "lightning", "numpy", "datasets", "flash-linear-attention", "transformers", "triton")


def source_files(layer: str = "run") -> list[Path]:
    """The files that a layer of `SOURCES` rests on, in the order of their names."""
    return sorted(
        path for name in RESTS_ON[layer] for pattern in SOURCES[name] for path in PACKAGE.glob(pattern)
    )


def source_hash(layer: str = "run") -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the code that decides results of a layer.

    Comments, docstrings and blank lines are left out: they change no result.
    """
    digest = hashlib.sha256()
    for path in source_files(layer):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(bare_code(path.read_text(encoding="utf-8")).encode() + b"\0")
    return digest.hexdigest()[:16]


@cache
def bare_code(source: str) -> str:
    """Python source without comments, bare strings (docstrings) and blank lines.

    Lines are cut out of the text as it stands, so that the same source gives the same code under
    every version of Python, which an unparsed syntax tree does not.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


LOADED = {layer: source_hash(layer) for layer in SOURCES}
"""`source_hash` of each layer when this process started: the code it runs, even if files are edited."""


def commit(layer: str = "run") -> dict:
    """The git commit of the checkout and whether the files of the layer differ from it.

    Both are None where there is no git or no repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *map(str, source_files(layer)))
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def versions() -> dict[str, str]:
    """Versions of Python and of the installed ones among `LIBRARIES`, without importing them."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """The GPU in use; or the model of the CPU, the vector instructions and the number of threads PyTorch uses
    on it. The last digits of a result depend on all three."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{_cpu_model()} ({instructions}), {threads} thread{'s' if threads > 1 else ''}"


def threads(device: str) -> int | None:
    """The number of threads in a `device_name` of a CPU; None in that of a GPU."""
    found = re.search(r", (\d+) threads?$", device)
    return int(found[1]) if found else None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def reset_peak_memory() -> None:
    """Start measuring `peak_memory` anew, so that one run of a long-lived process is measured alone.

    Where the system cannot do this for a CPU (it is Linux that can), the peak of the process counts.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Most memory held since `reset_peak_memory`, in bytes: of the GPU's tensors, or of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        # Not ru_maxrss: Linux hands that down from the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def collect(*, seconds: float, tokens: int, layer: str = "run", **more) -> dict:
    """The evidence of one run, as plain JSON types.

    Args:
        seconds: wall-clock time of the training alone.
        tokens: tokens trained on in that time.
        layer: the layer of `SOURCES` whose code gave the result.
        more: further facts about the execution, such as the number of devices.

    Returns:
        source_hash, commit, dirty, versions, device, seconds, tokens, tokens_per_second,
        peak_memory_bytes, date (UTC, ISO 8601) and ``more``.
    """
    return {
        "source_hash": LOADED[layer],
        **commit(layer),
        "versions": versions(),
        "device": device_name(),
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds else None,
        "peak_memory_bytes": peak_memory(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


@dataclass(frozen=True)
class Verification:
    """The record that newer code gave the results of older code again, digit for digit."""

    old: str
    """Source hash of the stored results."""
    new: str
    """Source hash of the code that recomputed them."""
    runs: dict[str, str]
    """`hybrid.runs.tables.variety` -> `run_id` of the recomputed run; no other variety is covered."""
    devices: list[str]
    """Where they were recomputed."""
    versions: dict[str, str]
    """`versions` when they were recomputed."""
    commit: str | None
    """As in `commit`."""
    dirty: bool | None
    """As in `commit`."""
    date: str
    """When the record was written: UTC, ISO 8601."""

    def write(self) -> Path:
        """Store the record, in `verified` of the store, and return its path."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        path = Store().root / "verified" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        write_atomically(path, text)
        return path


def verifications() -> list[Verification]:
    """All records of the store, oldest first; a file that is none is named in a `StoreWarning`."""
    records = []
    for path in sorted((Store().root / "verified").glob("[!.]*.json")):
        try:
            records.append(Verification(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            warnings.warn(f"{path} is passed over: {error}", StoreWarning, stacklevel=2)
    return sorted(records, key=lambda record: record.date)


def counting_as(today: str, variety: str, records: Iterable[Verification]) -> set[str]:
    """The source hashes whose results of a variety count as those of ``today``: it, and every hash from
    which a chain of records that cover the variety leads to it."""
    found, more = set(), {today}
    while more:
        found |= more
        more = {record.old for record in records if record.new in more and variety in record.runs} - found
    return found
