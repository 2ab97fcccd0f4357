"""MMLU's solved examples: the five `dev` rows of the question's own subject, in order."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.samplers import ContextSampler

from mistral_eval.data.rows import Row, Rows
from mistral_eval.errors import TaskError


def dev_rows(rows: Rows) -> Sequence[Row]:
    """The `dev` rows beside these `test` rows.

    lm-eval shows a sampler the question only when the shots' split is the test split, so the YAML
    file says `split: test` and this function brings what is meant.
    """
    return rows.splits["dev"]


class SubjectShots(ContextSampler):
    """An lm-eval few-shot sampler that picks by subject and never draws."""

    def __init__(self, df: Sequence[Row] | None = None, **kwargs: Any) -> None:
        super().__init__(df, **kwargs)
        self._by_subject: dict[str, list[Row]] = defaultdict(list)
        for row in df or ():
            self._by_subject[row["subject"]].append(row)

    def sample(
        self,
        n: int,
        eval_doc: Mapping[str, Any] | None = None,
        df: Sequence[Row] | None = None,  # noqa: ARG002  lm-eval's signature
        **_: Any,
    ) -> Sequence[Row]:
        """The first `n` examples of the question's subject.

        Raises:
            TaskError: the subject has fewer than `n` examples.
        """
        subject = eval_doc["subject"] if eval_doc else None
        rows = self._by_subject.get(subject or "", [])
        if len(rows) < n:
            raise TaskError(
                f"The subject {subject} should have {n} solved examples in MMLU's dev split, but "
                f"has {len(rows)}. Ask for at most {len(rows)} shots with --num-fewshot."
            )
        return rows[:n]
