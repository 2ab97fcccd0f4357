#!/usr/bin/env bash
# lm-eval 0.4.13: a custom few-shot sampler is shown the question only if the shots come from the test split.
#
# A sampler class named in `fewshot_config.sampler` has a method `sample(n, eval_doc, df)`. One that picks shots by a property of
# the question (MMLU: the five `dev` rows of the question's own subject) needs `eval_doc`, and gets None whenever
# `fewshot_config.split` is another split than `test_split`: the usual case, since shots from the test split would leak answers.
# Nothing warns; a sampler that falls back to "the first n rows" then shows every question the same subject's shots.
# The code is ConfigurableTask.fewshot_context in lm_eval/api/task.py. Seen in 0.4.13.
# Here: `split: test` in the task file, and a `process_docs` function that swaps in the other split's rows (run/questions.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "lm-eval==0.4.13" "datasets==5.2.0" "jinja2==3.1.6"
cat >"$folder/show.py" <<'PYTHON'
import logging

logging.disable(logging.CRITICAL)
from datasets import Dataset, DatasetDict
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask


class Notes(ContextSampler):
    """Notes whether it is shown the question, and takes the first rows."""

    given = False

    def sample(self, n, eval_doc=None, df=None, **_):
        Notes.given = eval_doc is not None
        return list(self.df)[:n]


def rows(split):
    return Dataset.from_list([{"question": f"{split} {n}?", "answer": "yes"} for n in range(2)])


def shown(split):
    task = ConfigurableTask(
        config={
            "task": "toy",
            "custom_dataset": lambda **_: DatasetDict({"test": rows("test"), "dev": rows("dev")}),
            "test_split": "test",
            "output_type": "generate_until",
            "num_fewshot": 1,
            "fewshot_config": {"split": split, "sampler": Notes},
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n"]},
        }
    )
    task.set_fewshot_seed(1234)
    task.fewshot_context(task.eval_docs[0], num_fewshot=1)
    return "given" if Notes.given else "withheld"


print(f"shots from dev: question {shown('dev')}; shots from test: question {shown('test')}")
PYTHON
observed=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null | tail -n 1)
echo "lm-eval 0.4.13: $observed"
[ "$observed" = "shots from dev: question withheld; shots from test: question given" ] || {
    echo "The behaviour has changed; see the head of $0." >&2
    exit 1
}
