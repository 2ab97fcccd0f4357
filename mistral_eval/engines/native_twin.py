"""The native engine as the twin of another one, for `--verify`."""

from functools import cached_property

from mistral_eval.engines.interface import Check, Encoded, Reply, Request
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.model.tokenizers.special import split_tokenizer_args
from mistral_eval.settings import RunSettings


class NativeTwin:
    """Computes requests of another engine alone, on the native engine's plain path.

    Args:
        settings: the run's settings.
        dtype: the dtype in which the other engine runs; `auto` for the stored one.
    """

    def __init__(self, settings: RunSettings, dtype: str) -> None:
        self._settings = settings
        self._dtype = dtype

    @cached_property
    def _native(self) -> NativeEngine:
        """The native engine with the same model; opened with the first comparison."""
        given = self._settings
        args, _ = split_tokenizer_args(given.model_args)
        kept = {"tokenizer": args.file, "add_bos_token": args.adds_bos}
        return open_native(
            given.model,
            adapter=given.adapter,
            revision=given.revision,
            dtype=self._dtype,
            device=given.device,
            seed=given.seed,
            chat_template=given.chat_template,
            model_args={name: str(value) for name, value in kept.items() if value is not None},
        )

    def check(self, encoded: Encoded, reply: Reply) -> Check:
        """Compute one request and compare the replies."""
        return self._native.compare(encoded, reply, is_other=True)


def is_comparable(request: Request) -> bool:
    """Return whether another engine's reply can be compared: its samples are other draws."""
    return request.kind != "generate" or not request.generation.is_sampled
