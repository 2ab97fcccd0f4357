#!/usr/bin/env bash
# torch 2.13.0 (CPU): log_softmax in float32 gives log-probabilities that are too high, always in that direction, and the more so the
# larger the vocabulary; logsumexp of the same numbers is right.
#
# The documentation (https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.log_softmax.html) calls log_softmax the stable form and
# names no loss of accuracy. Of logits with a spread of 5, as a trained model's have, over 49,152 words the log-probability of the most likely
# one is 7e-6 nats too high on average and hardly ever too low; over 128,256 words 1.6e-5. x - logsumexp(x) is within 1e-6 (AVX2). The vectorised sum of
# log_softmax leaves out what is too small beside its running total; the sum of logsumexp is made in pieces.
# It adds up: on the log-likelihood of an answer of 109 tokens it is 1.9e-3 nats, and every engine that takes log_softmax in float32 on a CPU has
# it alike (transformers, lm-eval without softmax_dtype, vLLM 0.32).
# Here: native adds the exponentials with torch.sum, in blocks of words (native/head.py); `--verify` allows 3e-5 nats a token to other engines (docs/engines.md, docs/trained.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy"
cat >"$folder/show.py" <<'PYTHON'
import torch

torch.set_num_threads(1)
for words in (49_152, 128_256):
    logits = 5 * torch.randn(128, words, generator=torch.Generator().manual_seed(0))
    exact = logits.double()
    top = logits.argmax(-1, keepdim=True)
    softmax = (logits.log_softmax(-1).double() - exact.log_softmax(-1)).gather(1, top)
    sums = torch.logsumexp(logits, -1).double() - torch.logsumexp(exact, -1)
    is_biased = softmax.mean() > 4 * sums.abs().mean() and (softmax > 0).double().mean() > 0.95
    figures = f"{softmax.mean():.1e} on average, {softmax.min():.1e} at least; {sums.abs().mean():.1e}"
    print(f"{words}: log_softmax {'too high' if is_biased else 'unbiased'}, logsumexp right", figures, sep="\t")
PYTHON
observed=$("$folder/venv/bin/python" "$folder/show.py")
echo "torch 2.13.0, nats: $observed"
expected=$'49152: log_softmax too high, logsumexp right\n128256: log_softmax too high, logsumexp right'
[ "$(cut -f1 <<<"$observed")" = "$expected" ] || { echo "The behaviour has changed; see the head of $0." >&2; exit 1; }
