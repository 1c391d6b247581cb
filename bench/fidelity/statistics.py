"""The choice of what a case is compared with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def equal_cost(cost: float, plain: Mapping[int, float]) -> int | None:
    """The fewest plain steps that cost at least as much, which favours them; None if even the most cost less."""
    enough = [steps for steps, price in plain.items() if price >= cost - 1e-6]
    return min(enough, key=lambda steps: plain[steps], default=None)


def best(scores: Iterable[tuple[str, float, float]], budget: float) -> str | None:
    """Of (name, cost, score) the name with the highest score that costs no more than the budget."""
    within = [(score, name) for name, cost, score in scores if cost <= budget + 1e-6]
    return max(within)[1] if within else None
