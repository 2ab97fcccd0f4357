"""What MT-Bench's judge is asked: FastChat's prompts, and the reference answers within them.

Source: lm-sys/FastChat at 0e6d3e4beaab, fastchat/llm_judge/data/judge_prompts.jsonl and
data/mt_bench/reference_answer/gpt-4.jsonl, byte for byte (Apache-2.0). The question file's own
`reference` field is not used, as in FastChat.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mistral_eval.answers.judge_prompt import JudgePrompt

TURNS: Final = (1, 2)
JUDGE_TOKENS: Final = 2048
"""Most tokens of a judgment (FastChat)."""

_FOLDER: Final = Path(__file__).parent


def _lines(name: str) -> list[dict[str, Any]]:
    text = (_FOLDER / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@cache
def templates() -> Mapping[str, Mapping[str, str]]:
    """Return FastChat's judge prompts by name: `system_prompt`, `prompt_template` and others."""
    return MappingProxyType({line["name"]: line for line in _lines("judge_prompts.jsonl")})


@cache
def reference_answers() -> Mapping[int, tuple[str, str]]:
    """Return GPT-4's reference answers to both turns, by question id (101 to 130)."""
    lines = _lines("reference_answers_gpt-4.jsonl")
    return MappingProxyType(
        {line["question_id"]: tuple(line["choices"][0]["turns"]) for line in lines}
    )


def single_prompt(
    question: Sequence[str],
    answers: Sequence[str],
    turn: int,
    references: Sequence[str] | None = None,
) -> JudgePrompt:
    """Return the prompt that asks for a rating of one answer.

    The prompt for the second turn holds the first turn too. The prompt for the first turn needs
    only the first answer.

    Args:
        question: The question's turns.
        answers: The model's answers to the turns.
        turn: Which answer is rated, 1 or 2.
        references: Reference answers to both turns, if the question has them.

    Raises:
        ValueError: There is no such turn, or a text for it is missing.
    """
    texts = _texts(turn, question=question, answer=answers, ref_answer=references)
    return _fill("single", turn, references is not None, texts)


def pair_prompt(
    question: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    turn: int,
    references: Sequence[str] | None = None,
) -> JudgePrompt:
    """Return the prompt that asks which of two models answered better.

    A comparison needs both orders: call this twice, with the models exchanged.

    Args:
        question: The question's turns.
        first: The answers of the model that is shown as assistant A.
        second: The answers of the model that is shown as assistant B.
        turn: Which answers are compared, 1 or 2.
        references: Reference answers to both turns, if the question has them.

    Raises:
        ValueError: There is no such turn, or a text for it is missing.
    """
    texts = _texts(turn, question=question, answer_a=first, answer_b=second, ref_answer=references)
    return _fill("pair", turn, references is not None, texts)


def _texts(turn: int, **turns: Sequence[str] | None) -> dict[str, str]:
    """Return the templates' fields: `question` and `question_1`, `question_2`, and so on."""
    if turn not in TURNS:
        raise ValueError(f"expected turn 1 or 2, found {turn}")
    texts = {}
    for name, both in turns.items():
        if both is None:
            continue
        if len(both) < turn:
            raise ValueError(f"expected {name} of {turn} turns, found {len(both)}")
        texts[name] = both[0]
        texts |= {f"{name}_{place}": text for place, text in enumerate(both[:turn], 1)}
    return texts


def _fill(kind: str, turn: int, with_reference: bool, texts: Mapping[str, str]) -> JudgePrompt:  # noqa: FBT001
    version = "v2" if kind == "pair" and not with_reference else "v1"
    name = f"{kind}{'-math' if with_reference else ''}-{version}{'-multi-turn' if turn > 1 else ''}"
    template = templates()[name]
    user = template["prompt_template"].format(**texts)
    return JudgePrompt(name, template["system_prompt"], user, JUDGE_TOKENS)
