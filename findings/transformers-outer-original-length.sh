#!/usr/bin/env bash
# transformers 5.23.0: a RoPE scaling's own context length is overruled by a field beside it, without a message.
#
# `original_max_position_embeddings` is documented as a field of `rope_parameters` (`rope_scaling` before): the context length before
# scaling. Where config.json also has a field of that name at its top level, as some published configurations have, the outer value replaces
# the inner one while the configuration is read. Where the two differ, every rotary frequency of YaRN or Llama 3's scaling is another one, and
# neither a warning nor the loaded `rope_parameters` shows what the file said.
# Here: two values that differ are an error that names both places (model/load/config_rope.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==5.23.0" "torch==2.13.0"
cat >"$folder/show.py" <<'PYTHON'
import json
import tempfile
from pathlib import Path

from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
SIZES = {
    "vocab_size": 8,
    "hidden_size": 64,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}


def frequencies(inside, outside=None):
    """Rotary frequencies of a YaRN model whose config.json states the length in one or two places."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": inside}
    fields = {"model_type": "llama", **SIZES, "rope_scaling": yarn}
    if outside is not None:
        fields["original_max_position_embeddings"] = outside
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(fields))
    model = LlamaForCausalLM(AutoConfig.from_pretrained(folder))
    return model.model.rotary_emb.inv_freq.tolist()


both = frequencies(1024, 256)
print(f"like 1024: {both == frequencies(1024)}, like 256: {both == frequencies(256)}")
PYTHON
observed=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null)
echo "transformers 5.23.0, 1024 inside and 256 outside: $observed"
expected="like 1024: False, like 256: True"
[ "$observed" = "$expected" ] || { echo "The behaviour has changed; see the head of $0." >&2; exit 1; }
