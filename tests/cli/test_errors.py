"""Bad input, one row each: the sentence a user reads, the exit code, and nothing spoilt."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.sandbox import Isolation
from tests.checkpoints import save_raw, save_sharded

SMALL = ("--tasks", "winogrande", "--data", "sample")


# an unset variable of a script, which as a path would be the current folder
EMPTY_OPTIONS = (
    *("--adapter", "--revision", "--base-url", "--data", "--device", "--chat-template"),
    *("--system-prompt", "--judge-url", "--judge-model", "--name"),
)


@pytest.fixture
def run(cli, tmp_path):
    """`mistral-eval run` into a folder of the test's own."""

    def call(*arguments):
        return cli("run", *arguments, "--output-path", tmp_path / "results", "--quiet")

    return call


@pytest.fixture
def hf_model(tmp_path):
    return save_hf(make_tiny(), tmp_path / "hf", tokenizer_file=tiny_tokenizer_file())


@pytest.fixture
def raw_model(tmp_path):
    return save_raw(make_tiny(), tmp_path / "raw", tokenizer_file=tiny_tokenizer_file())


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--tasks", "mmlu,gsm9k"), 2, "Unknown task 'gsm9k'. Did you mean gsm8k?"),
        (("--tasks", ""), 2, "--tasks is empty"),
        ((*SMALL, "--engine", "nativ"), 2, "--engine: unknown value 'nativ'. Did you mean native"),
        ((*SMALL, "--dtype", "int8"), 2, "--dtype: unknown value 'int8'"),
        ((*SMALL, "--limit", "0"), 2, "--limit: expected a whole number of questions from 1 up"),
        ((*SMALL, "--limit=-5"), 2, "found '-5'"),
        ((*SMALL, "--limit", "some"), 2, "found 'some'"),
        ((*SMALL, "--model-args", "rope_theta"), 2, "--model-args: expected key=value"),
        ((*SMALL, "--model", "tiny", "--model-args", "a=1"), 2, "takes no --model-args"),
        ((*SMALL, "--model", "tiny", "--device", "abacus"), 1, "--device abacus cannot be used"),
        (
            (*SMALL, "--model", "tiny", "--device", "gpu"),
            1,
            "used: torch knows no such device. Give",
        ),
        (
            (*SMALL, "--model", "tiny", "--device", "xla"),
            1,
            "from the 'XLA' backend). Give cpu, or",
        ),
        ((*SMALL, "-m", "tiny", "--seed", str(2**63)), 2, f"to {2**63 - 1}, found {2**63}."),
        (
            (*SMALL, "-m", "tiny", "--seed", str(-(2**63) - 1)),
            2,
            f"--seed: expected a number from -{2**63} to",
        ),
        ((*SMALL, "--limit", "9" * 13), 2, "of 12 digits at most"),
        *(
            ((*SMALL, option, ""), 2, f"{option}: expected a value, found ''")
            for option in EMPTY_OPTIONS
        ),
        (("--tasks", "piqa", "--data", "/nowhere/at/all"), 1, "/nowhere/at/all does not exist"),
        (("--seed", "1"), 2, "Missing option '--tasks'"),
        ((*SMALL, "--sead", "1"), 2, "No such option: --sead"),
    ],
)
def test_wrong_usage_is_one_sentence(run, arguments, code, sentence):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err


def test_an_empty_folder_for_runs_is_not_the_current_one(cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("run", *SMALL, "-m", "tiny", "-o", "")
    assert code == 2
    assert "--output-path: expected a value, found ''" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63)])
@pytest.mark.parametrize("engine", ["native", "hf"])
def test_every_seed_that_is_taken_serves_every_engine(run, seed, engine):
    options = ("-t", "gsm8k,piqa", "-m", "tiny", "--data", "sample", "-L", "1")
    assert run(*options, "--engine", engine, "--seed", str(seed))[0] == 0


def test_a_tiny_model_has_no_revision(run):
    code, _, err = run(*SMALL, "--model", "tiny", "--revision", "main")
    assert code == 2
    assert "--revision is for names on the hub, and --model is tiny" in err


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        (("--model", "./nowhere"), "./nowhere should be a folder, a GGUF file, a hub name"),
        (("--model", ""), "'' should be a folder, a GGUF file, a hub name"),
        (("--model", "org/x", "--adapter", "./nowhere"), "--adapter ./nowhere should be a folder"),
    ],
)
def test_a_model_that_is_nowhere_is_refused_before_anything_is_fetched(
    cli, monkeypatch, tmp_path, command, which, sentence
):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(command, "--tasks", "piqa", *which)
    assert (code, out) == (1, "")
    assert err.startswith(f"mistral-eval: {sentence}")
    assert not any(tmp_path.iterdir())


def test_an_unknown_table_format_names_the_formats(cli):
    code, _, err = cli("table", "--format", "xls")
    assert code == 2
    assert "latex" in err


def test_a_folder_without_a_run_cannot_be_tabled(cli, tmp_path):
    code, out, err = cli("table", tmp_path)
    assert (code, out) == (1, "")
    assert "should be a run's folder" in err


def test_an_unknown_baseline_names_what_there_is(cli):
    code, _, err = cli("table", "--baselines", "mistrel")
    assert code == 2
    assert "mistral" in err


def test_an_empty_data_folder_is_refused(run, tmp_path):
    (tmp_path / "data").mkdir()
    code, _, err = run("--tasks", "piqa", "--data", tmp_path / "data", "--model", "tiny")
    assert code == 1
    assert "is empty" in err


def test_a_benchmark_missing_in_the_data_folder_is_named_with_its_file(run, tmp_path):
    (tmp_path / "data" / "other").mkdir(parents=True)
    code, _, err = run("--tasks", "piqa", "--data", tmp_path / "data", "--model", "tiny")
    assert code == 1
    assert "piqa" in err
    assert "validation.parquet" in err


def test_wrong_columns_are_named(run, tmp_path):
    folder = tmp_path / "data" / "winogrande" / "winogrande_xl"
    folder.mkdir(parents=True)
    pq.write_table(
        pa.table({"sentence": ["a _ b"], "option1": ["x"]}), folder / "validation.parquet"
    )
    code, _, err = run("--tasks", "winogrande", "--data", tmp_path / "data", "--model", "tiny")
    assert code == 1
    assert "option2" in err
    assert "answer" in err


def test_rows_nobody_has_pinned_are_refused_with_both_fingerprints(run, tmp_path):
    folder = tmp_path / "data" / "winogrande" / "winogrande_xl"
    folder.mkdir(parents=True)
    row = {"sentence": ["a _ b"], "option1": ["x"], "option2": ["y"], "answer": ["1"]}
    pq.write_table(pa.table(row), folder / "validation.parquet")
    arguments = ("--tasks", "winogrande", "--data", tmp_path / "data", "--engine", "random")
    code, _, err = run(*arguments)
    assert code == 1
    assert "hub (sha256" in err
    assert "--data-unpinned" in err
    code, out, _ = run(*arguments, "--data-unpinned")
    assert code == 0
    assert "not identified" in out or "unpinned" in out


def test_a_model_that_is_nowhere_is_refused(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run(*SMALL, "--model", "./no/such/folder")
    assert code == 1
    assert "no/such/folder" in err


def test_a_missing_checkpoint_file_is_named(run, hf_model):
    (hf_model / "model.safetensors").unlink()
    code, _, err = run(*SMALL, "--model", hf_model)
    assert code == 1
    assert "safetensors" in err


def test_a_missing_shard_is_named(run, tmp_path):
    folder = save_sharded(make_tiny(), tmp_path / "hf", 4_000_000, tiny_tokenizer_file())
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    code, _, err = run(*SMALL, "--model", folder)
    assert code == 1
    assert shard.name in err


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(run, hf_model):
    file = hf_model / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    code, _, err = run(*SMALL, "--model", hf_model)
    assert code == 1
    assert name in err
    assert "31" in err
    assert "32" in err


def test_a_raw_checkpoint_without_rope_theta_is_told_the_option_that_supplies_it(run, raw_model):
    params = json.loads((raw_model / "params.json").read_text())
    del params["rope_theta"]
    (raw_model / "params.json").write_text(json.dumps(params))
    code, _, err = run(*SMALL, "--model", raw_model)
    assert code == 1
    assert "--model-args rope_theta=10000" in err
    code, _, err = run(*SMALL, "--model", raw_model, "--model-args", "rope_theta=10000")
    assert (code, err) == (0, "")


def test_a_tokenizer_with_more_ids_than_embedding_rows_is_refused(run, hf_model):
    v3 = tiny_tokenizer_file().parent / "mistral_instruct_tokenizer_240323.model.v3"
    shutil.copyfile(v3, hf_model / "tokenizer.model")
    (hf_model / "tokenizer.json").unlink()  # it would be used instead, with a note
    code, _, err = run(*SMALL, "--model", hf_model)
    assert code == 1
    assert "32768" in err
    assert "32000" in err


def test_a_file_in_the_place_of_the_results_folder_is_an_error_before_anything_runs(cli, tmp_path):
    (tmp_path / "results").write_text("mine")
    code, _, err = cli("run", *SMALL, "--model", "tiny", "-o", tmp_path / "results")
    assert code == 1
    assert "--output-path" in err
    assert (tmp_path / "results").read_text() == "mine"


def test_without_isolation_code_is_not_run_and_the_rest_is_offered(run, monkeypatch):
    nothing = Isolation(kind="none", detail="install bubblewrap.", missing=("everything",))
    monkeypatch.setattr("mistral_eval.run.opening.probe", lambda _: nothing)
    arguments = ("--tasks", "piqa,humaneval,mbpp", "--data", "sample", "--engine", "oracle")
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert "install bubblewrap" in err
    assert "--tasks piqa still runs" in err
    assert "--unsafe-code" in err


def test_a_later_error_leaves_an_earlier_run_as_it_was(cli, tmp_path):
    arguments = ("run", *SMALL, "--engine", "random", "-o", tmp_path / "results", "--quiet")
    assert cli(*arguments)[0] == 0
    before = snapshot(tmp_path)
    assert cli(*arguments, "--limit", "0")[0] == 2
    assert cli(*arguments[:1], "--tasks", "piqa", "--data", "/nowhere", *arguments[5:])[0] == 1
    assert snapshot(tmp_path) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
