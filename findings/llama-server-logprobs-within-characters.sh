#!/usr/bin/env bash
# llama.cpp's server in xllamacpp 2026.10.11549: "logprobs": N on /v1/completions should give an entry
# per generated token (OpenAI's reference, https://platform.openai.com/docs/api-reference/completions:
# "the most likely output tokens, as well the chosen tokens"). Observed: tokens that end within a UTF-8
# character have no entry, so `logprobs.content` is shorter than `usage.completion_tokens`, and its ids
# decode to another text than the reply's. Such tokens are ordinary: SentencePiece's byte fallback
# makes them, and so does byte-level BPE for most scripts. The model here has byte tokens only, with
# random weights, and draws among the letters a and b, then among the two bytes of one letter.
# Reported: not yet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "xllamacpp==2026.10.11549" "gguf==0.19.0" "numpy==2.3.5"
cat >"$folder/observe.py" <<'PY'
import json
import sys
import urllib.request

import numpy as np
import xllamacpp
from gguf import GGUFValueType, GGUFWriter

FILE = sys.argv[1]
DIM, HEADS, HIDDEN, WORDS = 32, 2, 64, 259
writer = GGUFWriter(FILE, "llama")
writer.add_block_count(1)
writer.add_context_length(512)
writer.add_embedding_length(DIM)
writer.add_feed_forward_length(HIDDEN)
writer.add_head_count(HEADS)
writer.add_head_count_kv(HEADS)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_dimension_count(DIM // HEADS)
writer.add_vocab_size(WORDS)
writer.add_tokenizer_model("llama")
writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))])
writer.add_token_scores([0.0] * WORDS)
writer.add_token_types([2, 3, 3, *[6] * 256])
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
random = np.random.default_rng(0)


def add(name, *shape):
    values = random.normal(1 if len(shape) == 1 else 0, 0.3, shape)
    writer.add_tensor(name, values.astype(np.float32))


add("token_embd.weight", WORDS, DIM)
add("output.weight", WORDS, DIM)
add("output_norm.weight", DIM)
for name, *shape in (
    ("attn_norm", DIM), ("ffn_norm", DIM), ("attn_q", DIM, DIM), ("attn_k", DIM, DIM),
    ("attn_v", DIM, DIM), ("attn_output", DIM, DIM), ("ffn_gate", HIDDEN, DIM),
    ("ffn_up", HIDDEN, DIM), ("ffn_down", DIM, HIDDEN),
):
    add(f"blk.0.{name}.weight", *shape)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

params = xllamacpp.CommonParams()
params.model.path = FILE
params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)


def complete(**more):
    body = {"prompt": [1, 68], "max_tokens": 24, "temperature": 0, "logprobs": 1, **more}
    request = urllib.request.Request(
        f"{server.listening_address}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request))


def only(*kept):
    """Draw at random from these bytes alone; the ids are those of the bytes plus 3."""
    others = [token for token in range(WORDS) if token - 3 not in kept]
    return complete(temperature=1, seed=1, logit_bias=[[token, False] for token in others])


for name, kept in (("letters", b"ab"), ("halves of letters", "\u00e9".encode())):
    reply = only(*kept)
    drawn = reply["usage"]["completion_tokens"]
    listed = [entry["id"] for entry in reply["choices"][0]["logprobs"]["content"]]
    print(f"{name}: {drawn} tokens drawn,", "as many listed" if len(listed) == drawn else "fewer listed")
PY
observed=$("$folder/venv/bin/python" "$folder/observe.py" "$folder/toy.gguf" 2>/dev/null | grep "tokens drawn")
echo "xllamacpp 2026.10.11549:"
echo "$observed"
expected="letters: 24 tokens drawn, as many listed
halves of letters: 24 tokens drawn, fewer listed"
[ "$observed" = "$expected" ] || {
    echo "The behaviour has changed; see the head of $0." >&2
    exit 1
}
