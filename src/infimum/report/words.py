"""How numbers are written on a page: signs, digits, units."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["clip", "count", "duration", "memory", "minus", "number", "percent", "setting", "share", "ticks"]

LONGEST = 400
"""Characters of a user's string that a page shows."""


def number(x: Any, digits: int = 4) -> str:
    """A number with so many decimals and a true minus sign; an em dash for what is not a finite number."""
    if type(x) not in (int, float) or not math.isfinite(x):
        return "—"
    if x != 0 and not 1e-4 <= abs(x) < 1e7:
        return f"{x:.3g}".replace("-", "−")
    return f"{x:,.{digits}f}".replace("-", "−").replace(",", "\u202f")


def count(x: Any) -> str:
    """A whole number in groups of three."""
    return f"{x:,}".replace(",", "\u202f").replace("-", "−") if type(x) is int else number(x)


def percent(x: Any) -> str:
    """A probability as a percentage, with as many digits as it has."""
    return "—" if type(x) not in (int, float) or not math.isfinite(x) else f"{100 * x:.6g} %"


def share(x: Any) -> str:
    """A measured share as a percentage of one decimal."""
    return "—" if type(x) not in (int, float) or not math.isfinite(x) else f"{100 * x:.1f} %"


def duration(seconds: Any) -> str:
    """A wall time in its natural unit."""
    if type(seconds) not in (int, float) or not 0 <= seconds < 1e12:
        return "—"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def memory(size: Any) -> str:
    """Bytes as MB or GB (powers of ten)."""
    if type(size) is not int or size < 0:
        return "—"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def clip(text: Any) -> str:
    """A string of the user, cut where it would fill the page; characters that turn or break the line are shown as such."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def minus(sentence: str) -> str:
    """A sentence with true minus signs before its numbers."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", sentence)


def setting(value: Any) -> str:
    """A value of a configuration."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if type(value) is int:
        return count(value) if abs(value) >= 10_000 else str(value).replace("-", "−")
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", "−")
    if isinstance(value, Mapping):
        return clip(", ".join(f"{name} {setting(part)}" for name, part in value.items())) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        mark = " × " if all(type(part) is int for part in value) else "; "
        return clip(mark.join(map(setting, value))) or "none"
    return clip(value)


def ticks(low: float, high: float, about: int = 5) -> list[tuple[float, str]]:
    """Round numbers in [low, high], one, two or five times a power of ten apart, with their labels."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, number(i * step, digits) if i else "0") for i in range(first, last + 1)]
