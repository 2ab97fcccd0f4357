"""A port to no vLLM: our transformer behind the interface, with the habits of vLLM 0.32.

Ids include the token that ended a generation; a prompt needs room for one new token; a request asks
for one new token or more and for 128 last tokens or fewer; two tokens may come in one step.
"""

import torch

from mistral_eval.engines.native import NativeEngine
from mistral_eval.engines.vllm_calls import SHOWN, Ask, Said
from mistral_eval.errors import EngineError
from mistral_eval.model.attention import SequencesAttend


class StandIn:
    """Answers with a native engine's model; `asked` keeps every request, `most` in flight."""

    def __init__(self, native: NativeEngine, max_model_len: int = 512, *, has_among=True) -> None:
        self.model = native.runner.model
        self.max_model_len = max_model_len
        self.has_among = has_among
        self.asked: list[Ask] = []
        self.steps = self.most = 0
        self.is_closed = False
        self._queued: dict[str, tuple[Ask, list[int], torch.Generator]] = {}

    def add(self, ask: Ask) -> str:
        if self.is_closed:
            raise EngineError("vLLM failed.")
        assert ask.max_tokens >= 1
        assert len(ask.prompt) < self.max_model_len, "vLLM would fail the whole call"
        assert len(ask.among) <= 128
        assert self.has_among or not ask.among
        assert ask.seed is None or 0 <= ask.seed < 2**31
        name = str(len(self.asked))
        self.asked.append(ask)
        generator = torch.Generator().manual_seed(ask.seed or 0)
        self._queued[name] = (ask, [], generator)
        self.most = max(self.most, len(self._queued))
        return name

    def step(self) -> list[Said]:
        self.steps += 1
        return [self._more(name) for name in list(self._queued)]

    def give_up(self, names) -> None:
        for name in names:
            self._queued.pop(name, None)

    def forget(self) -> None:
        """Cache nothing."""

    def close(self) -> None:
        self.is_closed = True
        self._queued.clear()

    def logprobs(self, ids) -> torch.Tensor:
        """The log-probabilities after each of these ids, float32 (T, n_words)."""
        tokens, model = torch.tensor(ids), self.model
        attend = SequencesAttend([len(ids)], model.config.sliding_window, model.dtype, model.device)
        hidden = model.hidden(tokens, torch.arange(len(ids)), attend)
        return model.logits(hidden).log_softmax(dim=-1)

    def _more(self, name: str) -> Said:
        ask, ids, generator = self._queued[name]
        new: list[int] = []
        among, scored = {}, ()
        for _ in range(1 + len(self.asked) % 2):
            found = self.logprobs((*ask.prompt, *ids))
            if not ids:
                among = {token: float(found[-1, token]) for token in ask.among}
                if ask.scored_from is not None:
                    scored = [
                        _shown(found[at - 1], ask.prompt[at])
                        for at in range(ask.scored_from, len(ask.prompt))
                    ]
            new.append(_drawn(found[-1], ask, generator))
            ids.append(new[-1])
            is_full = len(ask.prompt) + len(ids) == self.max_model_len
            is_finished = new[-1] in ask.ends or len(ids) == ask.max_tokens or is_full
            if is_finished:
                del self._queued[name]
                break
        return Said(name, tuple(new), is_finished, among, scored)


def _shown(row: torch.Tensor, token: int) -> dict[int, float]:
    best = row.topk(SHOWN)
    found = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return {token: float(row[token]), **found}


def _drawn(row: torch.Tensor, ask: Ask, generator: torch.Generator) -> int:
    if ask.allowed:
        row = torch.full_like(row, -torch.inf).index_copy(
            0, torch.tensor(ask.allowed), row[list(ask.allowed)]
        )
    if ask.sampling.temperature == 0:
        return int(row.argmax())
    chances = (row / ask.sampling.temperature).softmax(dim=0)
    order = chances.argsort(descending=True)
    kept = chances[order].cumsum(0) - chances[order] < ask.sampling.top_p
    if ask.sampling.top_k:
        kept[ask.sampling.top_k :] = False
    chances[order[~kept]] = 0.0
    return int(chances.multinomial(1, generator=generator))
