#!/usr/bin/env bash
# lm-eval 0.4.13 with transformers 5.23.0: the `hf` model replaces a checkpoint's output matrix by its embeddings.
#
# A checkpoint may hold an `lm_head.weight` of its own while its config.json says `tie_word_embeddings: true`, e.g. after a fine-tune that
# trained the head. transformers then uses both matrices: `AutoModelForCausalLM.from_pretrained` does not tie them. HFLM loads the model
# the same way and afterwards calls `model.tie_weights()`, which follows the configuration: the head is dropped without a message, and
# every score is that of another model than transformers' own. The call is in HFLM.__init__ in lm_eval/models/huggingface.py.
# Here: the hf engine corrects the loaded configuration before lm-eval ties (engines/hf_model.py); the native engine uses both matrices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "lm-eval==0.4.13" "transformers==5.23.0" "torch==2.13.0" "accelerate==1.15.0" "peft==0.21.2"
cat >"$folder/show.py" <<'PYTHON'
import json
import logging
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast
from lm_eval.models.huggingface import HFLM

logging.disable(logging.CRITICAL)
folder = Path(tempfile.mkdtemp())
words = {"<s>": 0, "a": 1, "b": 2, "c": 3}
PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")), eos_token="<s>", unk_token="a"
).save_pretrained(folder)
config = LlamaConfig(
    vocab_size=4,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
torch.manual_seed(0)
LlamaForCausalLM(config).save_pretrained(folder)
fields = json.loads((folder / "config.json").read_text())
(folder / "config.json").write_text(json.dumps(fields | {"tie_word_embeddings": True}))


def apart(model):
    same = torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    return "one matrix" if same else "two matrices"


alone = AutoModelForCausalLM.from_pretrained(folder)
harness = HFLM(pretrained=str(folder), device="cpu", dtype="float32").model
print(f"transformers: {apart(alone)}; lm-eval: {apart(harness)}")
PYTHON
observed=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null)
echo "lm-eval 0.4.13, transformers 5.23.0: $observed"
expected="transformers: two matrices; lm-eval: one matrix"
[ "$observed" = "$expected" ] || { echo "The behaviour has changed; see the head of $0." >&2; exit 1; }
