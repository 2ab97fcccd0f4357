"""Open the native engine and lm-eval's `hf` model on the same random tensors, and measure either.

The weights are created on the device; only the tokenizer is written to disk. They are in memory
once, except for the joined query, key and value matrices that the native engine makes for itself.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from lm_eval.models.huggingface import HFLM
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast
from vs_lm_eval import Answers, ask_hf

from mistral_eval.engines.interface import EngineIdentity, Request
from mistral_eval.engines.native import NativeEngine
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.export import save_tokenizer
from mistral_eval.model.load.config_hf import NAMES
from mistral_eval.model.load.layout import hf_name
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer
from mistral_eval.native.calibrate import matrix_rate, random_weights
from mistral_eval.native.choose_products import choose_ways
from mistral_eval.native.runner import ModelRunner

# TFLOP/s of dense 16-bit products from the data sheets, by torch's name of the card; first match
SHEETS = (("H200", 989), ("H100 PCIe", 756), ("H100 NVL", 835), ("H100", 989), ("A100", 312))


@dataclass(frozen=True, slots=True)
class Asked:
    """Some of a benchmark's instances answered by one engine."""

    answers: Answers
    seconds: float
    peak_bytes: int  # of the device, weights included; 0 on a CPU


@dataclass(frozen=True, slots=True)
class Apart:
    """Largest differences of log-likelihoods in nats: of a request, and of a token's mean."""

    request: float
    token: float


@dataclass(frozen=True, slots=True)
class Both:
    """Both engines on one device."""

    native: NativeEngine
    hf: HFLM
    dtype: torch.dtype
    device: torch.device

    def asked(self, ask: Callable[[], Answers]) -> Asked:
        """Time an engine's answers, after freeing the memory that the other left cached."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        start = perf_counter()
        answers = ask()
        if on_gpu:
            torch.cuda.synchronize(self.device)
        seconds = perf_counter() - start
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else 0
        return Asked(answers, seconds, peak)

    def matrix_rate(self) -> float:
        """Return FLOP per second of square products, the best within one second."""
        return matrix_rate(self.dtype, self.device, seconds=1.0)

    def sheet_rate(self) -> float | None:
        """Return the data sheet's FLOP per second for 16-bit products; None if not listed."""
        if self.device.type != "cuda" or self.dtype == torch.float32:
            return None
        card = torch.cuda.get_device_name(self.device)
        return next((1e12 * rate for name, rate in SHEETS if name in card), None)

    def apart(self, instances: Sequence[Request], ours: Answers, theirs: Answers) -> Apart:
        """How far the log-likelihoods lie apart."""
        differences = [abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)]
        lengths = [len(self.native.encode(one).work.continuation) for one in instances]
        each = (d / length for d, length in zip(differences, lengths, strict=True))
        return Apart(max(differences), max(each))

    def hf_asked(self, instances: Sequence[Request], size: int) -> tuple[Asked, int]:
        """What `hf` answers, and the batch size: halved while the device's memory runs out.

        Failed attempts are not timed.

        Raises:
            torch.OutOfMemoryError: not even a single sequence fits.
        """
        while True:
            try:
                return self.asked(partial(ask_hf, self.hf, instances, size)), size
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            size //= 2


def open_both(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Both:
    """Open both engines with Mistral's v1 tokenizer.

    Args:
        config: The shape; all layers have the same window.
        dtype: Type of the weights.
        device: Where the weights are created and both engines compute.
    """
    weights = random_weights(config, dtype, device)
    file = tiny_tokenizer_file()
    tokenizer = load_tokenizer(file, expected_vocab=config.vocab_size)
    runner = ModelRunner(
        config,
        weights,
        n_words=tokenizer.n_words,
        eos_ids=tokenizer.eos_ids,
        ways=choose_ways(config, dtype, device),
    )
    native = NativeEngine(runner, tokenizer, config.context_len, 0, EngineIdentity("native"))
    model = _hf_model(config, {hf_name(name): tensor for name, tensor in weights.items()})
    hf = HFLM(pretrained=model, tokenizer=_hf_tokenizer(file), batch_size=1, add_bos_token=True)
    return Both(native, hf, dtype, device)


def _hf_model(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> MistralForCausalLM:
    """Return transformers' model over these same tensors, given under its own names."""
    first = next(iter(tensors.values()))
    fields = {theirs: getattr(config, ours, None) for ours, theirs in NAMES.items()}
    fields |= {"sliding_window": config.sliding_window[0], "hidden_act": "silu"}
    hf_config = MistralConfig.from_dict({**fields, "bos_token_id": 1, "eos_token_id": 2})
    with torch.device("meta"):
        model = MistralForCausalLM(hf_config)
    model.load_state_dict(tensors, assign=True)
    with first.device:  # the rotary table is not part of the state dict
        model.model.rotary_emb = type(model.model.rotary_emb)(config=hf_config)
    assert model.lm_head.weight.data_ptr() == tensors["lm_head.weight"].data_ptr()
    assert not any(part.is_meta for part in (*model.parameters(), *model.buffers()))
    return model.requires_grad_(requires_grad=False)


def _hf_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Return Mistral's tokenizer as transformers loads it."""
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(file, Path(folder))
        return PreTrainedTokenizerFast.from_pretrained(folder)
