"""Where labels of a scatter plot go so that none covers another, a point or the edge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

DIRECTIONS = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
"""Tried in this order: readers expect a label right of its point."""
DISTANCES = (7.0, 14.0, 24.0, 38.0, 54.0, 72.0)
"""Gaps between point and label that are tried, nearest first, in the unit of the anchors."""
POINT_RADIUS = 5.0
"""Half the width that a point keeps free of labels."""
COVER_COST = 100.0
"""Per unit of area covered: dearer than any distance."""
DISTANCE_COST = 1.5
"""Per unit of distance, against one per unit of line area covered."""
PADDING = 1.5
"""Free room around a label."""


@dataclass(frozen=True)
class Box:
    """A rectangle by its lower left and upper right corner."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.right - self.left) * (self.top - self.bottom)

    def distance(self, point: tuple[float, float]) -> float:
        """From the nearest edge to a point; 0 inside."""
        across = max(self.left - point[0], 0.0, point[0] - self.right)
        return math.hypot(across, max(self.bottom - point[1], 0.0, point[1] - self.top))

    def grow(self, by: float) -> "Box":
        """The rectangle with a rim."""
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)


def _candidates(anchor: tuple[float, float], size: tuple[float, float]) -> list[tuple[float, Box]]:
    found = []
    half_width, half_height = size[0] / 2, size[1] / 2
    for distance in DISTANCES:
        for across, up in DIRECTIONS:
            middle_x = anchor[0] + across * (distance + size[0] / 2)
            middle_y = anchor[1] + up * (distance + size[1] / 2)
            box = Box(middle_x - half_width, middle_y - half_height, middle_x + half_width, middle_y + half_height)
            found.append((distance, box))
    return found


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    area: Box,
    lines: Sequence[Box] = (),
) -> list[Box]:
    """A rectangle per label, the cheapest in turn: labels and points are never covered while there is room.

    ``lines`` are avoided too, but a label may cross one where every other place is far away.
    """
    points = [Box(x, y, x, y).grow(POINT_RADIUS) for x, y in anchors]
    taken: list[Box] = []
    for anchor, size in zip(anchors, sizes, strict=True):
        solid = [*points, *(box.grow(PADDING) for box in taken)]

        def cost(place: tuple[float, Box], solid: Sequence[Box] = solid, anchor: tuple[float, float] = anchor) -> float:
            distance, box = place
            covered = sum(box.overlap(other) for other in solid) + box.area - box.overlap(area)
            own = box.distance(anchor)
            misread = sum(other != anchor and box.distance(other) < own + 1 for other in anchors)
            covered += misread  # A label nearer to another point would name the wrong one.
            return COVER_COST * covered + sum(box.overlap(line) for line in lines) + DISTANCE_COST * distance

        taken.append(min(_candidates(anchor, size), key=cost)[1])
    return taken
