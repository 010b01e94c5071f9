"""Numbers printed in the papers, with paper, version and table beside every value."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent.parent / "book" / "published"


def table(name: str) -> pd.DataFrame:
    """A file of `book/published` as a frame; its columns `paper`, `version` and `table` say where
    each value is printed. Raises ``ValueError`` naming the files there are."""
    names = sorted(file.stem for file in FOLDER.glob("*.csv"))
    if name not in names:
        raise ValueError(f"no published table {name!r}; there are: {', '.join(names)}")
    return pd.read_csv(FOLDER / f"{name}.csv")
