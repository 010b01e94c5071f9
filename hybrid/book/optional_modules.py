"""Pages that need a module which is not there for every system."""

from __future__ import annotations

from importlib.util import find_spec


def shown_without(module: str, remark: str) -> str | None:
    """Where a module cannot be imported, let the rest of the page be shown and not run.

    Every later cell then does nothing, but for the one that calls `provenance`: a page without results
    still says where it comes from.

    Args:
        module: name of the module.
        remark: what to do about it.

    Returns:
        None where the module is there, else a sentence to display.
    """
    if find_spec(module):
        return None
    from IPython import get_ipython

    def silent(lines: list[str]) -> list[str]:
        return lines if any("provenance(" in line for line in lines) else []

    get_ipython().input_transformers_cleanup.append(silent)
    return f"{module} is not installed here, so the code below is shown and not run. {remark}"
