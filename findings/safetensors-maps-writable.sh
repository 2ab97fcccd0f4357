#!/usr/bin/env bash
# safetensors 0.8.0: `safe_open(file, framework="pt")` fails to open a file where the process may not have as much private memory as the file is long.
#
# For torch the whole file is mapped as private writable memory when it is opened, whatever is read from it later. The kernel counts such a
# mapping against RLIMIT_DATA (and against strict overcommit), though no page of it is copied, so a program that reads one small
# tensor of a large checkpoint under such a limit ends with "Cannot allocate memory". With framework="numpy" the same file opens under the
# same limit. The documentation of `safe_open` promises lazy loading and does not say this.
# Here: headers are opened as numpy's, and values are read by offset (model/load/stored.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "safetensors==0.8.0" "torch==2.13.0" "numpy"
cat >"$folder/show.py" <<'PYTHON'
import os
import resource
import tempfile

import numpy as np
import torch  # noqa: F401  before the limit: its libraries need memory too
from safetensors import safe_open
from safetensors.numpy import save_file

with tempfile.TemporaryDirectory() as folder:
    file = os.path.join(folder, "model.safetensors")
    save_file({"large": np.zeros((1 << 30,), np.uint8), "small": np.zeros((4,), np.float32)}, file)
    with open("/proc/self/status") as status:
        [data] = [line.split()[1] for line in status if line.startswith("VmData")]
    limit = int(data) * 1024 + (256 << 20)  # 256 MB more than the process has, for a file of 1 GB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for framework in ("numpy", "pt"):
        try:
            with safe_open(file, framework=framework) as opened:
                print(f"{framework}: read {len(opened.get_tensor('small'))} numbers")
        except Exception as error:
            is_memory = "Cannot allocate memory" in str(error)
            print(f"{framework}: {'Cannot allocate memory' if is_memory else repr(error)}")
PYTHON
observed=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null)
echo "safetensors 0.8.0:"
echo "$observed"
expected="numpy: read 4 numbers
pt: Cannot allocate memory"
[ "$observed" = "$expected" ] || { echo "The behaviour has changed; see the head of $0." >&2; exit 1; }
