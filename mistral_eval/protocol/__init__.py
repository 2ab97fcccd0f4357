"""The functions that the YAML files in tasks/ name: shots, judges, metrics."""

from mistral_eval.protocol.judge import JudgeContext, judge
from mistral_eval.protocol.judges import by_group, filter_for, macro
from mistral_eval.protocol.oracle import oracle_reply

__all__ = [
    "JudgeContext",
    "by_group",
    "filter_for",
    "judge",
    "macro",
    "oracle_reply",
]
