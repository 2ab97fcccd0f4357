"""The paper's figure 5: the size of Llama 2 that would have a given score.

Mistral 7B (arXiv 2310.06825v1), figure 5. The paper does not state its interpolation; `SIZE_METHOD`
states ours.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mistral_eval.report.baselines import Baseline
from mistral_eval.stats import Interval
from mistral_eval.suite.benchmark import Group
from mistral_eval.suite.registry import FIGURE_4, FIGURE_5, columns_of

ANCHOR_IDS: Final = (
    "mistral-paper-table2/llama2-7b",
    "mistral-paper-table2/llama2-13b",
    "mixtral-paper-table2/llama2-70b",
)
SIZE_METHOD: Final = (
    (
        "Method: the group's mean score against the logarithm of the size, straight lines between "
        "Llama 2 7B and 13B (Mistral 7B paper) and 70B (Mixtral paper), all from Mistral's own "
        "pipeline; no extrapolation below or above."
    ),
    (
        "Knowledge ends at 13B: Mistral never printed 5-shot "
        f"{' and '.join(column.column for column in columns_of('knowledge'))} for Llama 2 70B."
    ),
    (
        f"The paper prints {FIGURE_4[FIGURE_5[0]]} 23B, Reasoning 38B (over eight benchmarks, "
        "here five) and Knowledge 13B for Mistral 7B and does not state its method; Meta's own "
        "68.9 for Llama 2 70B, in the place of 69.9, would give its 23B."
    ),
)


@dataclass(frozen=True, slots=True)
class Anchors:
    """Known (score in percent, size in billions) points, by size."""

    scores: tuple[float, ...]
    sizes: tuple[float, ...]

    def size_of(self, score: float) -> float:
        """Return the size in billions with that score; 0 below the smallest, inf above all."""
        if score < self.scores[0]:
            return 0.0
        if score > self.scores[-1]:
            return math.inf
        pairs = tuple(zip(self.scores, self.sizes, strict=True))
        for (s0, b0), (s1, b1) in itertools.pairwise(pairs):
            if s0 <= score <= s1:
                share = (score - s0) / (s1 - s0)
                return math.exp(math.log(b0) + share * (math.log(b1) - math.log(b0)))
        return self.sizes[-1]


def anchors(known: Sequence[Baseline], group: Group) -> Anchors:
    """Return the mean score of each published size over a group's benchmarks.

    A publication that lacks one of them under this protocol is omitted.
    """
    wanted = [column.id for column in columns_of(group)]
    points = []
    for baseline in known:
        cells = [baseline.cells.get(name) for name in wanted]
        values = [cell.value for cell in cells if cell is not None and cell.comparable]
        if len(values) == len(wanted):
            points.append((math.fsum(values) / len(values), baseline.parameters_b))
    points.sort(key=lambda point: point[1])
    return Anchors(tuple(score for score, _ in points), tuple(size for _, size in points))


def size_words(score: Interval, scale: Anchors) -> str:
    """Return the size in words, e.g. "22B", "under 7B" or "22B [20B, 24B]"."""
    value = _one(scale.size_of(score.value), scale)
    if score.low == score.high:
        return value
    low, high = (_one(scale.size_of(end), scale) for end in (score.low, score.high))
    return value if low == value == high else f"{value} [{low}, {high}]"


def _one(size: float, scale: Anchors) -> str:
    if size == 0:
        return f"under {scale.sizes[0]:.0f}B"
    if math.isinf(size):
        return f"over {scale.sizes[-1]:.0f}B"
    return f"{size:.0f}B"
