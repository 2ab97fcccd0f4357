#!/usr/bin/env bash
# torch 2.13.0 (CPU): a layer on oneDNN takes more memory with every new number of rows, about half a megabyte each, and keeps it.
#
# oneDNN compiles a kernel for each shape and keeps up to 1024 of them (its documentation: "Primitive Cache",
# ONEDNN_PRIMITIVE_CACHE_CAPACITY). torch passes the number of rows through as it is, so a program whose batches vary, as in decoding,
# grows by hundreds of megabytes for each layer shape. A capacity of 16 less than halves the growth: part of what is compiled stays. The
# same products by torch's default (MKL in float32) do not grow. In bfloat16, where the processor has it, oneDNN is torch's default.
# Here: numbers of rows and keys are rounded up before oneDNN sees them (model/products.py, model/shared_attend.py), and fewer kernels
# are kept.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy"
cat >"$folder/show.py" <<'PYTHON'
import resource

import torch
from torch.utils import mkldnn

torch.set_num_threads(1)
plain = torch.nn.Linear(576, 1536).eval()
layers = {"default": plain, "oneDNN": mkldnn.to_mkldnn(plain)}
rows = torch.randn(600, 576)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


with torch.no_grad():
    for name, layer in layers.items():
        layer(rows[:300])
        before = resident()
        for count in range(1, 600):
            layer(rows[:count])
        growth = resident() - before
        print(f"{name}: {'grows' if growth > 100 else 'does not grow'}", f"({growth:.0f} MB)", sep="\t")
PYTHON
observed=$(OMP_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/show.py")
echo "torch 2.13.0, 600 numbers of rows: $observed"
expected=$'default: does not grow\noneDNN: grows'
[ "$(cut -f1 <<<"$observed")" = "$expected" ] || { echo "The behaviour has changed; see the head of $0." >&2; exit 1; }
