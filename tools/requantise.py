"""Write a GGUF file's model again with another quantisation, to measure what that costs.

    python tools/requantise.py SOURCE.gguf TARGET.gguf Q4_0

Every matrix gets the new type except the embeddings (and the output), which keep theirs, as in
llama.cpp's mixed types; norms stay as they are. The values are those of the source, so a source
that is itself quantised plays the original. The gguf package quantises to Q4_0, Q4_1, Q5_0, Q5_1,
Q8_0, BF16, F16, F32, TQ1_0 and TQ2_0.
"""

import sys
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quantize

from mistral_eval.model.load.gguf_file import read_gguf

KEPT = ("token_embd.weight", "output.weight")
NOT_COPIED = ("general.architecture", "general.file_type")  # GGUFWriter writes the first itself


def requantise(source: Path, target: Path, kind: GGMLQuantizationType) -> None:
    """Write `target` with the values of `source`, its matrices quantised to `kind`."""
    model = read_gguf(source)
    writer = GGUFWriter(target, model.metadata["general.architecture"])
    for key, value in model.metadata.items():
        if key not in NOT_COPIED and not key.startswith("split."):
            add_value(writer, key, value)
    for name, stored in model.tensors.items():
        values = stored.read().float().numpy()
        new = kind if values.ndim == 2 else GGMLQuantizationType.F32
        if name in KEPT:
            new = GGMLQuantizationType[stored.quantised or "F32"]
        writer.add_tensor(name, quantize(values, new), raw_dtype=new)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_value(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add a value with the type that converters give it."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_key_value(key, value, GGUFValueType.UINT32)
    else:
        writer.add_float32(key, value)


if __name__ == "__main__":
    requantise(Path(sys.argv[1]), Path(sys.argv[2]), GGMLQuantizationType[sys.argv[3]])
