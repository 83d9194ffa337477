"""Intervals of what was counted."""

import math

NORMAL = 1.959963984540054  # leaves 2.5 % of a normal distribution on either side


def wilson(count: float, total: float) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927); (0, 1) for nothing counted."""
    if total <= 0:
        return 0.0, 1.0
    p, scale = count / total, 1 + NORMAL * NORMAL / total
    centre = (p + NORMAL * NORMAL / (2 * total)) / scale
    half = NORMAL / scale * math.sqrt(p * (1 - p) / total + (NORMAL / (2 * total)) ** 2)
    return (centre - half if count else 0.0), (centre + half if count < total else 1.0)
