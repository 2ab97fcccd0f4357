"""The YAML files are found in a checkout and in an installed package."""

import pytest

from mistral_eval.data import task_file
from mistral_eval.errors import TaskError


def test_the_folder_holds_the_benchmarks():
    assert (task_file.tasks_folder() / "mmlu.yaml").is_file()


def test_the_installed_folder_wins_over_the_checkout_s(tmp_path, monkeypatch):
    monkeypatch.setattr(task_file, "PACKAGE", tmp_path / "package")
    (tmp_path / "tasks").mkdir()
    assert task_file.tasks_folder() == tmp_path / "tasks"
    (tmp_path / "package" / "_tasks").mkdir(parents=True)
    assert task_file.tasks_folder() == tmp_path / "package" / "_tasks"


def test_no_folder_is_an_error_that_names_both_places(tmp_path, monkeypatch):
    monkeypatch.setattr(task_file, "PACKAGE", tmp_path / "package")
    with pytest.raises(TaskError, match=r"_tasks or in .*tasks, but neither"):
        task_file.tasks_folder()
