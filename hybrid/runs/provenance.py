"""The evidence a result carries: which code, libraries and machine made it, and at what cost."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from hybrid.runs.versions import PACKAGE, today

LIBRARIES = ("torch", "lightning", "numpy", "datasets", "flash-linear-attention", "transformers", "triton")


def commit() -> dict:
    """The git commit of the checkout and whether the package's files differ from it.

    Both are None where there is no git or no repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", str(PACKAGE))
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


def collect(*, seconds: float, tokens: int, rooms: Iterable[str], **more) -> dict:
    """The evidence of one run, as plain JSON types. Its rooms decide whether it is stale; all the rest are
    facts that decide nothing.

    Args:
        seconds: wall-clock time of the training alone.
        tokens: tokens trained on in that time.
        rooms: `Spec.rooms`, those whose code gave the result.
        more: further facts about the execution, such as the number of devices.

    Returns:
        rooms (room -> its version), commit, dirty, versions, device, seconds, tokens, tokens_per_second,
        peak_memory_bytes, date (UTC, ISO 8601) and ``more``.
    """
    return {
        "rooms": today(rooms),
        **commit(),
        "versions": versions(),
        "device": device_name(),
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds else None,
        "peak_memory_bytes": peak_memory(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }
