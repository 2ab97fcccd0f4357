"""What lm-eval's users type: understood, or answered with one sentence."""

import json
import re
import subprocess
import sys

import lm_eval.models  # noqa: F401 - registers lm-eval's classes
import pytest
import torch
import typer
from lm_eval.api.registry import model_registry

from mistral_eval.cli.app import app
from mistral_eval.cli.lm_eval_habits import (
    ALWAYS,
    MODEL_CLASSES,
    NOT_HERE,
    OTHER_CLASSES,
    SHORT,
    in_our_words,
    translated,
)
from mistral_eval.engines.lm_eval_model import MistralLM  # registers `mistral`
from mistral_eval.errors import UsageError
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import tiny_model, tiny_tokenizer_file


@pytest.fixture(scope="module")
def theirs() -> list[str]:
    """Every long option of `lm_eval run`."""
    program = "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.findall(r"^  (--[a-z_]+)", done.stdout, re.MULTILINE)
    assert len(found) > 25
    return found


def test_every_option_of_lm_eval_is_taken_or_has_a_sentence(theirs):
    command = typer.main.get_command(app).commands["run"]
    ours = {name for param in command.params for name in param.opts}
    for option in theirs:
        name = option.removeprefix("--")
        assert option in ours or name in ALWAYS or name in NOT_HERE, option
        if name in NOT_HERE:
            with pytest.raises(UsageError, match=f"{option} is an option of lm-eval: "):
                translated(["run", "-t", "piqa", option, "x"])


def test_no_sentence_is_about_an_option_that_is_ours(theirs):
    command = typer.main.get_command(app).commands["run"]
    ours = {name for param in command.params for name in param.opts}
    for name in (*ALWAYS, *NOT_HERE):
        assert f"--{name}" in theirs
        assert f"--{name}" not in ours


def test_model_classes_are_those_of_lm_eval():
    assert {*MODEL_CLASSES, *OTHER_CLASSES} == {*model_registry, "mistral"}
    assert model_registry["mistral"] is MistralLM


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("run --tasks piqa arc_easy --model tiny", "run --tasks piqa,arc_easy --model tiny"),
        ("run --model_args pretrained=a dtype=b", "run --model_args pretrained=a,dtype=b"),
        ("run -a x=1 y=2 -t piqa", "run --model-args x=1,y=2 -t piqa"),
        ("run -b 4 -M tiny -C f.yaml", "run --batch-size 4 --model tiny --config f.yaml"),
        ("run --log_samples -t piqa", "run -t piqa"),
        ("run --num_fewshot=3 -t piqa", "run --num_fewshot=3 -t piqa"),
        ("table A B --log_samples", "table A B --log_samples"),
        ("compare run plan -b x", "compare run plan -b x"),
        ("--debug run -b 4", "--debug run --batch-size 4"),
        ("plan -t piqa mmlu --json", "plan -t piqa,mmlu --json"),
        ("run --apply_chat_template -t a", "run --apply-chat-template -t a"),
        ("run --apply_chat_template true -t a", "run --apply-chat-template -t a"),
        ("run --fewshot_as_multiturn False", "run --no-fewshot-as-multiturn"),
        ("run --fewshot_as_multiturn=false -t a b", "run --no-fewshot-as-multiturn -t a,b"),
        ("run --system_instruction be_brief", "run --system_instruction be_brief"),
    ],
)
def test_a_command_line_is_translated(given, wanted):
    assert translated(given.split()) == wanted.split()
    assert set(SHORT) == {"-a", "-b", "-M", "-C"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            {"model": "hf", "model_args": "pretrained=D,dtype=float32,revision=r,device=cpu"},
            {"model": "D", "engine": "hf", "dtype": "float32", "revision": "r", "device": "cpu"},
        ),
        ({"model": "hf", "model_args": "pretrained=D,peft=P"}, {"model_args": "peft=P"}),
        ({"model": "mistral", "model_args": "pretrained=D"}, {"model": "D", "engine": "native"}),
        (
            {"model": "vllm", "model_args": "pretrained=D,dtype=float32,tensor_parallel_size=2"},
            {
                "model": "D",
                "engine": "vllm",
                "dtype": "float32",
                "model_args": "tensor_parallel_size=2",
            },
        ),
        ({"model": "D", "engine": "hf", "batch_size": "4"}, {"model_args": "batch_size=4"}),
        ({"model": "D", "batch_size": "4"}, {"model": "D", "model_args": None}),
        ({"model": "D", "model_args": "rope_theta=1e4"}, {"model_args": "rope_theta=1e4"}),
    ],
)
def test_model_and_arguments_are_translated(given, wanted):
    found = in_our_words({"engine": "auto", "dtype": "auto", "device": "auto", **given})
    assert {key: found[key] for key in wanted} == wanted
    assert "batch_size" not in found


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "hf"}, "--model hf is a model class of lm-eval"),
        ({"model": "sglang", "model_args": "pretrained=D"}, "no engine here corresponds"),
        ({"model": "sglang", "model_args": "model=D"}, "no engine here corresponds"),
        (
            {"model": "hf", "model_args": "pretrained=D,dtype=float32", "dtype": "bfloat16"},
            "--dtype is bfloat16, and lm-eval's spelling of it says float32",
        ),
        ({"model": "hf", "model_args": "pretrained=D", "engine": "native"}, "--engine is native"),
        (
            {"model": "D", "engine": "hf", "batch_size": "4", "model_args": "batch_size=8"},
            "--batch-size is 8, and lm-eval's spelling of it says 4",
        ),
    ],
)
def test_contradictions_are_a_sentence(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        in_our_words({"engine": "auto", "dtype": "auto", "device": "auto", **given})


def test_a_folder_named_like_a_model_class_is_a_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "hf").mkdir()
    monkeypatch.chdir(tmp_path)
    assert in_our_words({"model": "hf", "engine": "auto"})["model"] == "hf"


SAMPLE = ("run", "-t", "winogrande", "--data", "sample", "-L", 2)


def test_several_models_run_over_questions_built_once_into_one_table(cli, tmp_path):
    """A third one that cannot be loaded costs the others nothing."""
    folder = tmp_path / "model"
    save_hf(
        tiny_model("float32", torch.device("cpu")), folder, tokenizer_file=tiny_tokenizer_file()
    )
    models = ("-m", "tiny", "-m", folder, "-m", tmp_path / "none", "--name", "A")
    rest = ("--name", "B", "--name", "C", "-o", tmp_path / "out", "--json")
    code, out, err = cli(*SAMPLE, *models, *rest)
    assert code == 1
    assert err.count("WinoG: 2 questions") == 1
    assert f"mistral-eval: {tmp_path / 'none'} should be" in err
    assert "Traceback" not in err
    names = [row["name"] for row in json.loads(out)["rows"] if row.get("path")]
    assert names == ["A", "B"]


def test_a_finished_run_takes_another_name(cli, tmp_path):
    arguments = (*SAMPLE, "--engine", "random", "-o", tmp_path)
    assert cli(*arguments, "--name", "first")[0] == 0
    (record,) = tmp_path.rglob("run.json")
    before = json.loads(record.read_text())
    code, _out, err = cli(*arguments, "--name", "second")
    assert code == 0
    assert "finished" in err
    after = json.loads(record.read_text())
    assert after["settings"].pop("name") == "second" != before["settings"].pop("name")
    assert after == before
    assert "second" in (record.parent / "table.md").read_text()
    assert cli(*arguments)[0] == 0
    assert json.loads(record.read_text())["settings"]["name"] == "second"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-m", "tiny", "-m", "tiny"), "The model tiny is given twice"),
        (
            ("-m", ".", "-m", "tests/..", "--name", "x", "--name", "y"),
            "The model tests/.. is given twice",
        ),
        (("-m", "tiny", "-m", ".", "--name", "x", "--name", "x"), "--name x is given twice"),
        (("-m", "tiny", "-m", "b", "--name", "x"), "one --name for each of 2 models, found 1"),
    ],
)
def test_models_and_names_that_do_not_fit_are_refused(cli, arguments, sentence):
    code, out, err = cli("run", "-t", "piqa", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize("given", ["--apply_chat_template rag", "--apply-chat-template=rag"])
def test_a_templates_name_is_answered_with_a_sentence(given):
    with pytest.raises(UsageError, match=r"--apply_chat_template rag: .* --chat-template FILE"):
        translated(["run", *given.split()])
