"""Which keys a query sees.

Source: Mistral 7B paper, section 2.1 (sliding window attention).
A window of W means W keys, the query's own included: query i sees keys j with i - W < j <= i.
"""

import torch
from torch import Tensor


def visible(query_positions: Tensor, key_positions: Tensor, window: int | None) -> Tensor:
    """Which keys each query sees, for queries and keys of one sequence.

    Args:
        query_positions: absolute positions, (n,).
        key_positions: absolute positions, (s,); -1 marks an empty slot, seen by nobody.
        window: number of keys seen, the query's own included; None for all.

    Returns:
        Booleans, (n, s).
    """
    queries, keys = query_positions[:, None], key_positions[None, :]
    seen = (keys <= queries) & (keys >= 0)
    return seen if window is None else seen & (keys > queries - window)


def first_visible(position: int, window: int | None) -> int:
    """The smallest position that a query at `position` sees."""
    return 0 if window is None else max(0, position - window + 1)


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Booleans as what is added to attention scores: 0 where seen, -inf where not."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, float("-inf"))
