"""Which questions a limited run asks."""

import math
from collections.abc import Sequence

from mistral_eval.settings import Limit


def choose(strata: Sequence[object], limit: Limit | None) -> list[int]:
    """The row numbers that a limited run asks, the same on every machine.

    Each stratum (subject) gives as nearly the same number as it can, and within a stratum the rows
    are evenly spaced. Without strata pass the same value for each row.

    Args:
        strata: Each row's stratum.
        limit: As `parse_limit` returns it.
    """
    total = len(strata)
    if limit is None:
        return list(range(total))
    wanted = limit if isinstance(limit, int) else math.ceil(total * limit)
    if wanted >= total:
        return list(range(total))
    rows: dict[object, list[int]] = {}
    for index, stratum in enumerate(strata):
        rows.setdefault(stratum, []).append(index)
    quotas = _even_quotas([len(members) for members in rows.values()], wanted)
    picked = [
        members[i * len(members) // quota]
        for members, quota in zip(rows.values(), quotas, strict=True)
        for i in range(quota)
    ]
    return sorted(picked)


def _even_quotas(sizes: Sequence[int], wanted: int) -> list[int]:
    """Equal shares; what a small stratum cannot give, and the remainder, goes round the others."""
    quotas = [0] * len(sizes)
    while wanted > 0:
        open_ = [i for i, size in enumerate(sizes) if quotas[i] < size]
        share = max(1, wanted // len(open_))
        spread = open_ if wanted >= len(open_) else _spaced(open_, wanted)
        for i in spread:
            given = min(share, sizes[i] - quotas[i], wanted)
            quotas[i] += given
            wanted -= given
    return quotas


def _spaced(items: Sequence[int], count: int) -> list[int]:
    return [items[i * len(items) // count] for i in range(count)]
