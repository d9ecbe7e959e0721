"""The learning rate of all trainings of encoders: a line up, a line down."""

from __future__ import annotations


def rate_at(step: int, steps: int, warm_up: float) -> float:
    """Return the share of the greatest rate at a step: up along a line for `warm_up` of the steps, then down to 0."""
    rising = max(1.0, warm_up * steps)
    return min((step + 1) / rising, max(0.0, (steps - step) / max(1.0, steps - rising)))
