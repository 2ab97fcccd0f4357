"""HellaSwag's texts as the model sees them: WikiHow's markup removed the way lm-eval removes it.

The same results as lm-eval 0.4.13's `hellaswag/utils.py` (a test compares them), so that scores can
be compared with everybody's.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

_MARKUP: Final = re.compile(r"\[.*?\]")


def clean(text: str) -> str:
    """Turn ` [title]` into a full stop and drop other `[…]`; halve each pair of spaces, once."""
    text = text.strip().replace(" [title]", ". ")
    return _MARKUP.sub("", text).replace("  ", " ")


def question(doc: Mapping[str, Any]) -> str:
    """`{activity_label}: {ctx_a} {ctx_b}`, with `ctx_b` in lower case but for its first letter."""
    return clean(f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}")


def endings(doc: Mapping[str, Any]) -> list[str]:
    """The four endings."""
    return [clean(ending) for ending in doc["endings"]]
