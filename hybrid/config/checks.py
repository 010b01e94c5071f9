"""What the fields of several configs are held to."""

from __future__ import annotations

import math
from dataclasses import fields


def positive(config, *names: str) -> None:
    """Refuse any named integer field that is not a whole number of at least one."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


def floats(config) -> None:
    """Turn whole numbers in fields of real ones into floats: equal specs have one name. Refuse what is no
    finite number."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type not in ("float", "float | None") or (value is None and "None" in field.type):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{field.name} must be a finite number; got {value!r}")
        object.__setattr__(config, field.name, float(value))


def flags(config, *names: str) -> None:
    """Refuse any named field that is neither True nor False."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} must be True or False; got {getattr(config, name)!r}")


def above_zero(config, *names: str) -> None:
    """Refuse any named real field that is zero or negative; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive; got {value!r}")


def from_zero(config, *names: str) -> None:
    """Refuse any named real field that is negative."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must be at least 0; got {getattr(config, name)!r}")


def share(config, name: str) -> None:
    """Refuse a field that is no number between 0 and 1."""
    value = getattr(config, name)
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1; got {value!r}")


def numbers(config, name: str) -> tuple:
    """The field as a tuple; refuse what is neither list nor tuple."""
    value = getattr(config, name)
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list; got {value!r}")
    return tuple(value)
