"""lm-eval's spellings of what our options do, and a sentence for each that has no counterpart.

Source: `lm_eval run --help` of lm-eval 0.4.13. A test goes through all of its options.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mistral_eval.errors import UsageError

COMMANDS: Final = ("run", "plan", "cluster")
# lm-eval's names of model classes, and the engine that runs the same checkpoint.
MODEL_CLASSES: Final = {
    "hf": "hf",
    "hf-auto": "hf",
    "huggingface": "hf",
    "mistral": "native",
    "vllm": "vllm",
}
# Other classes that lm-eval's users name; no engine of ours corresponds to them.
OTHER_CLASSES: Final = (
    *("anthropic-chat", "anthropic-chat-completions", "anthropic-completions", "dummy", "ggml"),
    *("gguf", "habana", "hf-audiolm-qwen", "hf-mistral3", "hf-multimodal", "ipex", "litellm"),
    *("litellm-chat", "litellm-chat-completions", "local-chat-completions", "local-completions"),
    *("mamba_ssm", "megatron_lm", "nemo_lm", "neuronx", "onnxruntime", "onnxruntime-genai"),
    *("openai-chat-completions", "openai-completions", "openvino", "sglang", "sglang-generate"),
    *("steered", "textsynth", "trtllm", "vllm-vlm", "watsonx_llm", "winml"),
)
# What --model_args may hold there and is an option of its own here.
OPTIONS: Final = {"revision": "revision", "dtype": "dtype", "device": "device"}
LISTS: Final = ("--tasks", "-t", "--model_args", "--model-args", "-a")
SHORT: Final = {"-a": "--model-args", "-b": "--batch-size", "-M": "--model", "-C": "--config"}
# Flags that ask for what every run does.
ALWAYS: Final = {
    "log_samples": "every run writes its samples",
    "confirm_run_unsafe_code": "generated programs run isolated; --unsafe-code lifts that",
}
# Flags after which lm-eval reads a word: true, false, or the name of one of several templates.
FLAGS: Final = ("apply_chat_template", "fewshot_as_multiturn")
NOT_HERE: Final = {
    "gen_kwargs": "sampling and stops are the protocol's, in tasks/*.yaml",
    "use_cache": "every run keeps its replies and resumes from them",
    "cache_requests": "requests are built within seconds and not cached",
    "max_batch_size": "--batch-tokens limits the tokens of a forward pass",
    "samples": "--limit takes questions spread over a benchmark",
    "check_integrity": "rows are always compared with their pinned fingerprints",
    "include_path": "lm_eval:NAME runs a stock task; docs/adding-a-benchmark.md adds one",
    "write_out": "`mistral-eval tasks NAME` shows a benchmark's first prompt",
    "show_config": "`mistral-eval tasks NAME` shows a benchmark's protocol",
    "predict_only": "every run judges its replies; `mistral-eval samples` shows them",
    "trust_remote_code": "--engine hf --model-args trust_remote_code=true runs a model's code",
    "metadata": "benchmarks take no metadata",
    "verbosity": "--quiet leaves out all messages",
    "wandb_args": "runs are not sent anywhere; `mistral-eval table --format json` prints them",
    "wandb_config_args": "runs are not sent anywhere",
    "trackio_args": "runs are not sent anywhere",
    "hf_hub_log_args": "runs are not sent anywhere",
}


def translated(arguments: Sequence[str]) -> list[str]:
    """Return a command line in our spelling: lists with commas, no flag that is always on.

    Raises:
        UsageError: an option of lm-eval has no counterpart; the sentence says what to do.
    """
    command = next((one for one in arguments if not one.startswith("-")), "")
    if command not in COMMANDS:
        return list(arguments)
    result: list[str] = []
    joining = False  # the argument follows an option that lm-eval separates by spaces
    flag = ""  # the flag that the argument follows
    for argument in arguments:
        name, sign, value = argument.partition("=")
        if not argument.startswith("-"):
            if flag:
                result[-1] = _flag(flag, argument)
            elif joining and result[-1] not in LISTS:
                result[-1] += f",{argument}"
            else:
                result.append(argument)
            flag = ""
            continue
        joining = argument in LISTS
        option = name.removeprefix("--").replace("-", "_") if name.startswith("--") else ""
        flag = option if option in FLAGS else ""
        if flag:
            result.append(_flag(flag, value or "true"))
        elif option in ALWAYS:
            sys.stderr.write(f"{name} is not needed: {ALWAYS[option]}.\n")
        elif option in NOT_HERE:
            raise UsageError(f"{name} is an option of lm-eval: {NOT_HERE[option]}. Leave it out.")
        else:
            result.append(SHORT.get(name, name) + sign + value)
    return result


def _flag(option: str, word: str) -> str:
    """Return a flag by the word after it."""
    if word.lower() not in ("true", "false"):
        raise UsageError(
            f"--{option} {word}: a word after this flag of lm-eval's chooses one of a model's "
            "templates. Give `--apply-chat-template --chat-template FILE`."
        )
    return f"--{'no-' if word.lower() == 'false' else ''}{option.replace('_', '-')}"


def in_our_words(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate lm-eval's `--model hf --model_args pretrained=NAME,dtype=...` and `--batch_size`.

    Args:
        options: the command's options; `model` names one model.

    Returns:
        The options with `model`, `engine`, `revision`, `dtype` and `device` as meant.

    Raises:
        UsageError: the model class has no engine here, or an option is given twice.
    """
    from mistral_eval.settings import parse_pairs

    result = dict(options)
    try:
        found: Any = parse_pairs(result.get("model_args"))
    except ValueError:
        return result  # the settings refuse it
    arguments: dict[str, str] = dict(found)
    size = result.pop("batch_size", None)
    name = result["model"]
    if "pretrained" in arguments and _is_class(name):
        result["engine"] = _engine_of(name, result.get("engine", "auto"))
        result["model"] = arguments.pop("pretrained")
        for key, option in OPTIONS.items():
            if key in arguments:
                result[option] = _only_one(option, result.get(option), arguments.pop(key))
    elif _is_class(name) and not Path(name).exists():
        _engine_of(name, "auto")
        raise UsageError(
            f"--model {name} is a model class of lm-eval, and here --model is the checkpoint. "
            f"Give --model NAME, or lm-eval's --model {name} --model_args pretrained=NAME."
        )
    if size is not None and result.get("engine") == "hf":
        arguments["batch_size"] = _only_one("batch_size", arguments.get("batch_size"), size)
    elif size is not None:
        sys.stderr.write(
            f"--batch-size {size} is for --engine hf and not used: the native engine fills "
            "--batch-tokens tokens per forward pass.\n"
        )
    result["model_args"] = ",".join(f"{key}={value}" for key, value in arguments.items()) or None
    return result


def _is_class(name: str) -> bool:
    return name in MODEL_CLASSES or name in OTHER_CLASSES


def _engine_of(model_class: str, chosen: str) -> str:
    """Return the engine that runs a checkpoint as lm-eval's model class does."""
    engine = MODEL_CLASSES.get(model_class)
    if engine is None:
        raise UsageError(
            f"--model {model_class} is a model class of lm-eval that no engine here corresponds "
            "to. Give --model NAME, with --engine native, hf or vllm."
        )
    return _only_one("engine", chosen, engine)


def _only_one(option: str, ours: str | None, theirs: str) -> str:
    """Return the value of an option that two spellings may set; they must agree."""
    if ours not in (None, "auto", theirs):
        raise UsageError(
            f"--{option.replace('_', '-')} is {ours}, and lm-eval's spelling of it says {theirs}. "
            "Leave one of them out."
        )
    return theirs
