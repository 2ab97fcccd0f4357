"""Where a reply ends: stop strings in text, watched while ids grow, never shown in the reply."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_eval.answers.stop_strings import cut
from mistral_eval.model.tokenizers.incremental import StreamText
from mistral_eval.model.tokenizers.tokenizer import Tokenizer


def until_of(gen_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop strings of lm-eval's generation arguments: a string, a list, or none."""
    until = gen_kwargs.get("until") or ()
    return tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)


@dataclass(frozen=True, slots=True)
class Stops:
    """Where a reply ends, and whether it has."""

    until: tuple[str, ...]

    def cut(self, text: str) -> str:
        """The text before its first stop."""
        return cut(text, self.until)

    def watch(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> Callable[[Sequence[int]], bool]:
        """A function that is shown the growing ids and says when a stop has been written."""
        stream: StreamText | None = None
        longest = max(len(stop) for stop in self.until)
        seen = 0
        searched = 0

        def is_done(ids: Sequence[int]) -> bool:
            nonlocal seen, searched, stream
            stream = stream or StreamText(tokenizer, prompt)  # not before its turn has come
            for new in ids[seen:]:
                stream.push(new)
            seen = len(ids)
            text = stream.text
            found = any(stop in text[searched:] for stop in self.until)
            searched = max(0, len(text) - longest)
            return found

        return is_done
