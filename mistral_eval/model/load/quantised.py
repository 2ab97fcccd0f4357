"""Say which engine reads a quantised checkpoint, and what must be installed for it.

Source: `validate_environment` of transformers' quantizers.
"""

from collections.abc import Mapping
from typing import Any

import torch

from mistral_eval.errors import EngineError, UnsupportedError
from mistral_eval.model.load.fields import USE_HF

# quant_method -> the packages that transformers needs for it
PACKAGES = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "gptq": ("optimum", "gptqmodel"),
    "torchao": ("torchao",),
}
FP8 = "fp8"


def method_of(values: Mapping[str, Any]) -> str | None:
    """Return the kind of quantisation that a config.json names; None if it is not quantised."""
    found = values.get("quantization_config")
    if not found:
        return None
    named = found.get("quant_method") if isinstance(found, dict) else None
    return str(named or "of an unnamed kind")


def refuse_quantised(values: Mapping[str, Any]) -> None:
    """Raise if the weights are quantised, which the native engine does not read.

    Raises:
        UnsupportedError: they are; says how the hf engine runs them.
    """
    method = method_of(values)
    if method is None:
        return
    how = USE_HF
    if method == FP8:
        # transformers converts them to bfloat16 where the device does not multiply fp8
        how = "run it with `--engine hf --dtype bfloat16`"
    elif method in PACKAGES:
        how = f"`pip install {' '.join(PACKAGES[method])}`, then {USE_HF}"
    raise UnsupportedError(
        f"config.json: quantization_config says that the weights are quantised ({method}), and the "
        f"native engine does not read them: {how}."
    )


def check_hf_dtype(values: Mapping[str, Any], dtype: str, device: torch.device) -> None:
    """Check that transformers can compute a quantised model in `dtype`.

    Raises:
        EngineError: fp8 in float32 on the CPU, where some layers would stay in bfloat16 and the
            first product of both would fail.
    """
    if method_of(values) == FP8 and device.type == "cpu" and dtype not in {"auto", "bfloat16"}:
        raise EngineError(
            f"--dtype should be auto or bfloat16 for fp8 weights on the CPU and is {dtype}: "
            "transformers converts them to bfloat16 there."
        )
