"""Random models of transformers in folders, and their logits beside ours on every path."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.cache import RollingCache
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.plain import PlainGenerator, score_plain
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.native.runner import ModelRunner

VOCAB = 61
NO_EOS = -1
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
}
PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}


def with_images(text: dict[str, Any], **outer: Any) -> dict[str, Any]:
    """The fields of a mistral3 with this text part."""
    return {"model_type": "mistral3", "text_config": text, "vision_config": PIXTRAL, **outer}


def make_theirs(fields: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """A random model of the class that transformers builds for a config.json of these fields."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(fields))
        config = AutoConfig.from_pretrained(folder, attn_implementation="eager")
    config._experts_implementation = "eager"
    kind = AutoModelForImageTextToText if "text_config" in fields else AutoModelForCausalLM
    torch.manual_seed(seed)
    model = kind.from_config(config, dtype=torch.float32).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 1.5)
        else:
            weight.data.normal_(0.0, 0.2)
    model.tie_weights()
    return model


def their_logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """Logits of one sequence, (T, words)."""
    with torch.inference_mode():
        return model(input_ids=ids[None]).logits[0]


def load_ours(folder: Path, **options: Any) -> Transformer:
    """Our transformer with the folder's weights, in float32."""
    found = load_checkpoint(folder, dtype="float32", **options)
    return Transformer(found.config, found.weights, VOCAB)


def our_logits(model: Transformer, ids: Tensor) -> Tensor:
    """Logits of one sequence in one pass, (T, words)."""
    windows = model.config.sliding_window
    attend = SequencesAttend([len(ids)], windows, model.dtype, model.device)
    return model.logits(model.hidden(ids, torch.arange(len(ids)), attend))


def cached_logits(model: Transformer, ids: Tensor, chunks: list[int], *, rolling: bool) -> Tensor:
    """Logits over a cache that is fed in chunks, and token by token after them."""
    cache = RollingCache(model.config, 1, len(ids), torch.empty(0), rolling=rolling)
    parts, start = [], 0
    for size in chunks:
        attend = cache.prefill(0, len(ids[start : start + size]))
        parts.append(model.hidden(ids[start : start + size], attend.positions, attend))
        attend.finish()
        start += size
    for token in ids[start:]:
        attend = cache.step([0])
        parts.append(model.hidden(token[None], attend.positions, attend))
        attend.finish()
    return model.logits(torch.cat(parts))


def largest_tree_error(folder: Path, ids: list[int]) -> float:
    """The largest difference between scores over the prefix tree and of each request alone."""
    requests = [
        ScoreRequest(tuple(ids[:n]), tuple(ids[n : n + 3]) if n % 2 else (n % VOCAB,))
        for n in range(1, len(ids) - 3, 5)
    ]
    found = load_checkpoint(folder, dtype="float32")
    runner = ModelRunner(
        found.config, found.weights, n_words=VOCAB, eos_ids=(NO_EOS,), batch_tokens=16
    )
    fast = dict(runner.score(requests))
    slow = dict(score_plain(runner.model, requests, batch_tokens=64))
    return max(abs(fast[n].logprob - slow[n].logprob) for n in range(len(requests)))


def replies(folder: Path, ids: list[int], new: int) -> tuple[list[Any], list[Any]]:
    """Greedy ids over the shared prompt, and of each request alone."""
    prompts = [tuple(ids), (*ids, 3), (*ids[:-2], 7, 8, 9)]
    requests = [GenerateRequest(prompt, new) for prompt in prompts]
    found = load_checkpoint(folder, dtype="float32")
    runner = ModelRunner(
        found.config, found.weights, n_words=VOCAB, eos_ids=(NO_EOS,), batch_tokens=24
    )
    fast = dict(runner.generate(requests))
    slow = dict(PlainGenerator(runner.model, (NO_EOS,), rows=1, chunk=7).run(requests))
    order = range(len(requests))
    return [fast[n].ids for n in order], [slow[n].ids for n in order]
