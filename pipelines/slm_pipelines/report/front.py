"""The Pareto front: what no other variant beats in both figures at once."""

from collections.abc import Sequence

Point = tuple[float, float]
"""Two costs, both better when smaller; negate what is better when larger."""


def dominates(one: Point, other: Point) -> bool:
    """Whether ``one`` is nowhere worse and somewhere better than ``other``."""
    return one[0] <= other[0] and one[1] <= other[1] and one != other


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates, by first and then second cost; equal points all stay."""
    front = [index for index, point in enumerate(points) if not any(dominates(other, point) for other in points)]
    return sorted(front, key=lambda index: points[index])
