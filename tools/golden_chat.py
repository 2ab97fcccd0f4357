"""Write conversations' ids in every version of Mistral's format: `python tools/golden_chat.py`.

The file is tests/golden/chat.json, made by mistral-common alone from the tokenizers that its
package holds. For V7 and later, whose tekken.json it does not hold, the first words of V3's are
numbered as in such a file. Run it when mistral-common changes a format, and say so in the commit.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.base import SpecialTokens
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

FILE: Final = Path(__file__).resolve().parents[1] / "tests" / "golden" / "chat.json"
DATA: Final = Path(str(MistralTokenizer._data_path()))  # noqa: SLF001 - it has no public name
STORED: Final = {
    "v1": "tokenizer.model.v1",
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
    "v3 tekken": "tekken_240718.json",
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
}
MADE: Final = ("v7", "v11", "v13", "v15")
WORDS: Final = 8000  # of tekken's vocabulary in a made file
TURNS: Final = (
    ("user", "What is the capital of France? Answer in one word.\n"),
    ("assistant", "Paris."),
    ("user", "And of Italy?"),
    ("assistant", "Rome,  of course. "),
    ("user", "  Write </s> and [INST] é 🙂"),
)
SYSTEM: Final = "Always assist with care, respect, and truth."


def made_tekken(version: str, folder: Path) -> Path:
    """Write a tekken.json of a version that mistral-common's package has no file of."""
    content: dict[str, Any] = json.loads((DATA / STORED["v3 tekken"]).read_text(encoding="utf-8"))
    special: list[Any] = [dict(one) for one in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    named = {one["token_str"] for one in special}
    for token in SpecialTokens:
        if token.value not in named:
            special.append({"rank": len(special), "token_str": token.value, "is_control": True})
    content["special_tokens"] = special
    content["vocab"] = content["vocab"][:WORDS]
    count = content["config"]["default_num_special_tokens"]
    content["config"] |= {"version": version, "default_vocab_size": WORDS + count}
    if version == "v15":
        content["model_settings_builder"] = {}
    file = folder / "tekken.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def conversations() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield conversations of one to three turns, each with and without system prompt and prefix."""
    for turns in (1, 2, 3):
        for has_system in (False, True):
            for has_prefix in (False, True):
                asked: list[dict[str, Any]] = [
                    {"role": role, "content": text} for role, text in TURNS[: 2 * turns - 1]
                ]
                if has_system:
                    asked.insert(0, {"role": "system", "content": SYSTEM})
                if has_prefix:
                    asked.append({"role": "assistant", "content": "The answer ", "prefix": True})
                also = " system" * has_system + " prefix" * has_prefix
                yield f"{turns} turns{also}", asked


def ids_of(file: Path) -> dict[str, list[int]]:
    """Return mistral-common's ids of every conversation, by its name."""
    tokenizer = MistralTokenizer.from_file(file)
    return {
        name: tokenizer.encode_chat_completion(ChatCompletionRequest(messages=asked)).tokens
        for name, asked in conversations()
    }


def golden() -> dict[str, dict[str, list[int]]]:
    """Return the ids of every conversation in every version."""
    found = {name: ids_of(DATA / file) for name, file in STORED.items()}
    with tempfile.TemporaryDirectory() as folder:
        for version in MADE:
            found[f"{version} made"] = ids_of(made_tekken(version, Path(folder)))
    return found


def main() -> None:
    """Write the golden file: one conversation a line."""
    parts = [
        f"{json.dumps(version)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(ids)}" for name, ids in found.items())
        + "\n}"
        for version, found in golden().items()
    ]
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
