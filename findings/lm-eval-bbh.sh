#!/usr/bin/env bash
# lm-eval 0.4.13: two BBH tasks score right answers 0.
#
# `bbh_fewshot`: the prompt ends with "A:", the target is "True", and both are compared by exact match without a filter that strips. A
# model on a byte-level tokenizer (Llama 3, Qwen, SmolLM2) writes " True", which is decoded with its space; on SentencePiece the space
# is dropped. So the score depends on the tokenizer. `bbh_cot_fewshot`: the answer is read by an expression whose last part takes away
# any character, not a full stop alone, so "So the answer is True" without a full stop gives "Tru". The tasks' README says
# neither.
# Here: answers are stripped, and a full stop is taken away only where there is one (answers/stated.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "lm-eval==0.4.13"
cat >"$folder/show.py" <<'PYTHON'
from pathlib import Path

import lm_eval.tasks
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.tasks._yaml_loader import load_yaml

tasks = Path(lm_eval.tasks.__file__).parent / "bbh"
direct = load_yaml(tasks / "fewshot" / "boolean_expressions.yaml", resolve_func=False)
[metric] = direct["metric_list"]
options = {key: value for key, value in metric.items() if key.startswith(("ignore", "regexes"))}
print(f"the direct prompt ends with {direct['doc_to_text'][-2:]!r}; filters: {direct.get('filter_list')}")
for reply in ("True", " True"):
    score = exact_match_hf_evaluate(predictions=[reply], references=["True"], **options)
    print(f"{reply!r}: {float(score['exact_match']):.0f}")
reasoned = load_yaml(tasks / "cot_fewshot" / "boolean_expressions.yaml", resolve_func=False)
pattern = reasoned["filter_list"][0]["filter"][0]["regex_pattern"]
replies = ["So the answer is True.", "So the answer is True"]
print(RegexFilter(regex_pattern=pattern).apply([replies], [{}])[0])
PYTHON
observed=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null)
echo "lm-eval 0.4.13:"
echo "$observed"
expected="the direct prompt ends with 'A:'; filters: None
'True': 1
' True': 0
['True', 'Tru']"
[ "$observed" = "$expected" ] || { echo "The behaviour has changed; see the head of $0." >&2; exit 1; }
