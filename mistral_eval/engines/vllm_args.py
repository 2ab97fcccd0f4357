"""`--model-args` of the vLLM engine: which arguments of vLLM a user may set, and to what."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from mistral_eval.errors import UsageError, nearest
from mistral_eval.model.load.folder import TRUST
from mistral_eval.settings import parse_value

# What the engine decides itself, and why.
DECIDED: Final = {
    "model": "it is --model",
    "tokenizer_mode": "texts are encoded by the tokenizer of --engine native",
    "skip_tokenizer_init": "texts are encoded by the tokenizer of --engine native",
    "tokenizer_revision": "texts are encoded by the tokenizer of --engine native",
    "generation_config": "sampling is the protocol's",
    "override_generation_config": "sampling is the protocol's",
    "logprobs_mode": "scores are log-probabilities of the model's own distribution",
    "max_logprobs": "scores need no more than vLLM's default",
    "config_format": "the folder's config.json is read",
    "hf_overrides": "the folder's config.json is read",
    "data_parallel_size": "one engine answers a run; tensor_parallel_size takes several devices",
    "hf_token": "arguments are kept in run.json; the hub's token is in the variable HF_TOKEN",
    "enable_lora": "adapters are merged before",
    "enable_return_routed_experts": "replies are text and log-probabilities",
}
# What changes speed and memory, but no reply beyond its last bits.
NEUTRAL: Final = frozenset(
    {
        *("block_size", "cpu_offload_gb", "disable_cascade_attn", "disable_custom_all_reduce"),
        *("disable_hybrid_kv_cache_manager", "distributed_executor_backend", "download_dir"),
        *("enable_chunked_prefill", "enable_expert_parallel", "enable_prefix_caching"),
        *("enforce_eager", "gpu_memory_utilization", "kv_cache_memory_bytes"),
        *("load_format", "max_model_len", "max_num_batched_tokens", "max_num_seqs"),
        *("max_parallel_loading_workers", "num_gpu_blocks_override", "numa_bind"),
        *("pipeline_parallel_size", "safetensors_load_strategy", "swap_space"),
        *("tensor_parallel_size",),
    }
)


def engine_arguments(given: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine arguments of `--model-args` as values of the right type.

    Args:
        given: the arguments, as text or as values.
        fields: name -> type of every argument of the installed vLLM.

    Raises:
        UsageError: an argument is unknown, decided by the engine, or has a value of another type.
    """
    found: dict[str, Any] = {}
    for name, text in given.items():
        value = parse_value(text) if isinstance(text, str) else text
        if name in DECIDED:
            raise UsageError(
                f"--model-args sets {name}, which --engine vllm decides itself: {DECIDED[name]}. "
                "Leave it out."
            )
        if name not in fields or name.startswith("_"):
            raise UsageError(
                f"--model-args sets {name}, which is no argument of vLLM's engine. "
                f"{nearest(name, [one for one in fields if one not in DECIDED])}"
            )
        if not _fits(value, fields[name]):
            raise UsageError(
                f"--model-args {name}={value}: expected {_words(fields[name])}, as vLLM has it."
            )
        found[name] = value
    return found


def is_trusted(given: Mapping[str, Any]) -> bool:
    """Return whether the model's own Python files may run.

    Raises:
        UsageError: the value is neither true nor false; in Python any text is true.
    """
    text = given.get(TRUST, False)
    value = parse_value(text) if isinstance(text, str) else text
    if not isinstance(value, bool):
        raise UsageError(f"--model-args {TRUST}={value}: expected true or false.")
    return value


def deciding(arguments: Mapping[str, Any]) -> str:
    """Return the arguments that can change replies, as text for the engine's identity."""
    return " ".join(f"{name}={arguments[name]}" for name in sorted(arguments.keys() - NEUTRAL))


def _fits(value: object, kind: Any) -> bool:
    """Return whether a value is of an argument's type; True where the type cannot be checked."""
    if isinstance(kind, str):  # an annotation in quotes: vLLM checks it
        return True
    with suppress(PydanticUserError):  # a class of vLLM's own: vLLM checks it
        adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError:
            return False
    return True


def _words(kind: Any) -> str:
    """Return a type in a reader's words."""
    if kind in (bool, bool | None):
        return "true or false"
    return inspect.formatannotation(kind).replace(" | None", "").replace("typing.", "")
