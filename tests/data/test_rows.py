"""Rows are plain dicts with what lm-eval asks of a data set."""

import pytest

from mistral_eval.data import DataSpec, Rows, load_benchmark_data, make_source
from mistral_eval.data.task_file import data_spec, read_task
from mistral_eval.errors import TaskError


def test_rows_count_iterate_and_index_like_a_list():
    rows = Rows([{"a": 1}, {"a": 2}, {"a": 3}], {"a": "integer"})
    assert (len(rows), rows[0], rows[-1], rows[1:]) == (3, {"a": 1}, {"a": 3}, [{"a": 2}, {"a": 3}])
    assert [row["a"] for row in rows] == [1, 2, 3]
    assert repr(rows) == "Rows(3 rows of a)"


def test_features_are_the_top_columns():
    """lm-eval looks a template up among them before it renders it."""
    rows = load_benchmark_data(data_spec("arc_easy"), make_source("sample"))["test"]
    assert list(rows.features.keys()) == ["id", "question", "choices", "answerKey"]
    assert rows.column_names == list(rows[0])


def test_an_incomplete_data_description_is_refused():
    kwargs = dict(read_task("piqa")["dataset_kwargs"])
    kwargs |= read_task("piqa")["metadata"]
    assert DataSpec.from_kwargs(kwargs) == data_spec("piqa")
    expected = (
        r"tasks/piqa.yaml .* columns.goal is 'number' \(input should be 'text', 'text or null'"
    )
    with pytest.raises(TaskError, match=expected):
        DataSpec.from_kwargs({**kwargs, "columns": {"goal": "number"}})
    del kwargs["splits"], kwargs["questions"]
    with pytest.raises(TaskError, match=r"splits is missing; questions is missing\. Correct"):
        DataSpec.from_kwargs(kwargs)
