"""Few-shot blocks told from the questions they precede, each kept once."""


class Blocks:
    """The distinct texts before the questions of a benchmark.

    A prompt is cut before its question: at the last blank line before the words of the question,
    or at the line they begin on. What cannot be cut is shown whole.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def split(self, prompt: str, words: str) -> tuple[int, str]:
        """The block's number (-1: no block), and the rest of the prompt.

        `words` are the question's, or "" where none are known or no shots come before it.
        """
        end = self._end(prompt, words)
        if end <= 0:
            return -1, prompt
        block = prompt[:end]
        place = self._places.setdefault(block, len(self.texts))
        if place == len(self.texts):
            self.texts.append(block)
        return place, prompt[end:]

    def _end(self, prompt: str, words: str) -> int:
        """Where the block ends: 0 for nowhere."""
        start = prompt.rfind(words) if words else -1
        if start <= 0:
            return 0
        blank = prompt.rfind("\n\n", 0, start)
        if blank >= 0:
            return blank + 2
        return prompt.rfind("\n", 0, start) + 1
