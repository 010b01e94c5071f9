"""What the fields of several configs are held to."""

from __future__ import annotations

from dataclasses import fields


def positive(config, *names: str) -> None:
    """Refuse any named integer field that is not a whole number of at least one."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


def floats(config) -> None:
    """Turn whole numbers in fields of real ones into floats: equal specs have one name."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type in ("float", "float | None") and isinstance(value, int):
            object.__setattr__(config, field.name, float(value))


def share(config, name: str) -> None:
    value = getattr(config, name)
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1; got {value!r}")
