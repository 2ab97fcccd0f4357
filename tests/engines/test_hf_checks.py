"""No engine runs a checkpoint that another refuses: missing, surplus and damaged tensors, ...

The hf engine loads through transformers, which makes up what is missing and drops what is too much.
"""

import json
import shutil
from pathlib import Path

import mistral_common
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import is_protobuf_available

from mistral_eval.engines.faults import FAULTS, library_faults
from mistral_eval.engines.hf import open_hf
from mistral_eval.engines.native import open_native
from mistral_eval.errors import CheckpointError, EngineError, MistralEvalError, UsageError
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from tests.byte_level import END, save_model

TEKKEN = Path(mistral_common.__file__).parent / "data/tekken_240911.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
ENGINES = {"native": open_native, "hf": open_hf}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    return save_hf(make_tiny(), folder, tokenizer_file=tiny_tokenizer_file())


@pytest.fixture
def model(base, tmp_path) -> Path:
    return shutil.copytree(base, tmp_path / "model")


def tensors(change):
    """Change the tensors of model.safetensors."""

    def apply(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def config(**fields):
    """Change fields of config.json; None takes one out."""

    def apply(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        kept = {key: value for key, value in (values | fields).items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return apply


def pointers(pattern: str):
    """Replace files by Git LFS pointers."""

    def apply(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.write_text(POINTER)

    return apply


def add_special_token(folder: Path) -> None:
    """Give the tokenizer a special token with the first id beyond the embedding's rows."""
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text()) if file.is_file() else {}
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    token = {"content": "<extra>", "special": True, "lstrip": False, "rstrip": False}
    decoder = {str(rows): {**token, "normalized": False, "single_word": False}}
    file.write_text(json.dumps({**values, "added_tokens_decoder": decoder}))


def without_mlp(found: dict[str, torch.Tensor]) -> None:
    for name in [name for name in found if "layers.1.mlp" in name]:
        del found[name]


def with_biases(found: dict[str, torch.Tensor]) -> None:
    for layer in range(4):
        found[f"model.layers.{layer}.self_attn.q_proj.bias"] = torch.ones(64)


FAULTY = {
    "tensors missing": (tensors(without_mlp), r"layers\.1\.mlp\.\w+\.weight .*missing \(and 2 mo"),
    "biases left over": (tensors(with_biases), r"layers\.0\.self_attn\.q_proj\.bias .*\(and 3 mo"),
    "another shape": (
        config(intermediate_size=100),
        r"mlp\.\w+\.weight should have shape \(.*100.*\) by the configuration and has \(.*192.*\)",
    ),
    "NaN": (
        tensors(lambda found: found["model.norm.weight"].fill_(float("nan"))),
        "tensor model.norm.weight holds NaN or infinity",
    ),
    "integers": (
        tensors(lambda found: found.update({"lm_head.weight": torch.zeros(9, dtype=torch.int8)})),
        "has I8, and nothing says how to read it",
    ),
    "reward model": (
        config(architectures=["LlamaForSequenceClassification"]),
        "architectures should name a causal language model.*is LlamaForSequenceClassification",
    ),
    "embedding model": (config(architectures=["MistralModel"]), "is MistralModel: a model without"),
    "weights not fetched": (
        pointers("*.safetensors"),
        "model.safetensors should .* Git LFS pointer: run `git lfs pull`",
    ),
    "tokenizer not fetched": (pointers("tokenizer.*"), "tokenizer.* run `git lfs pull`"),
    "fewer rows than ids": (
        lambda folder: (config(vocab_size=31000)(folder), tensors(cut_rows)(folder)),
        "the tokenizer has 32000 ids and the model's embedding only 31000 rows",
    ),
}


def cut_rows(found: dict[str, torch.Tensor]) -> None:
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        found[name] = found[name][:31000].clone()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_checkpoint_is_refused_by_every_engine(model, engine, fault):
    change, sentence = FAULTY[fault]
    change(model)
    with pytest.raises(MistralEvalError, match=sentence) as caught:
        ENGINES[engine](str(model), device="cpu")
    assert "\n" not in str(caught.value)
    assert str(model) in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_matrices_are_used_although_the_configuration_ties_them(model, base, ask, engine):
    """As in transformers; lm-eval's `tie_weights()` after loading would drop the output matrix."""
    config(tie_word_embeddings=True)(model)
    scores = []
    for folder in (base, model):
        opened = ENGINES[engine](str(folder), device="cpu")
        scores += [reply for _, reply in opened.answer([opened.encode(ask("One", " two"))])]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_special_token_needs_no_embedding_row(model, base, ask, engine):
    """Code Llama's tokenizer has some that its embeddings lack."""
    add_special_token(model)
    scores = []
    for folder in (base, model):
        opened = ENGINES[engine](str(folder), device="cpu")
        scores += [reply for _, reply in opened.answer([opened.encode(ask("One", " two"))])]
    assert scores[0] == scores[1]


CONTRADICTIONS = {
    "two bases": {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}},
    "no base": {"rope_theta": None, "rope_parameters": None, "rope_scaling": None},
    "two kinds": {"rope_parameters": {"rope_type": "linear", "type": "yarn", "factor": 2.0}},
    "one RoPE per kind of layer": {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_what_native_refuses_and_transformers_settles_alone_is_noted(model, case):
    config(**CONTRADICTIONS[case])(model)
    with pytest.raises(CheckpointError) as caught:
        open_native(str(model), device="cpu")
    notes = open_hf(str(model), device="cpu").identity.notes
    assert any(str(caught.value) in note for note in notes)


def test_a_tokenizer_that_transformers_reads_otherwise_is_noted(tmp_path):
    """Qwen2Tokenizer splits words by its own expression, whatever tokenizer.json has."""
    folder = save_model(tmp_path / "model")
    config(model_type="llama")(folder)
    assert not told_of_ids(folder)
    named = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    assert told_of_ids(folder)


def told_of_ids(folder: Path) -> bool:
    notes = open_hf(str(folder), device="cpu").identity.notes
    return any("to other ids than --engine native does" in note for note in notes)


def test_tekken_json_is_read_by_every_engine(base, tmp_path, ask):
    """With mistral-common in transformers, whose tokenizer has options of its own."""
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    shutil.copyfile(TEKKEN, folder / "tekken.json")
    rows = {"lm_head.weight": 131072, "model.embed_tokens.weight": 131072}
    tensors(lambda found: found.update({k: torch.randn(n, 64) * 0.02 for k, n in rows.items()}))(
        folder
    )
    config(vocab_size=131072)(folder)
    scores = []
    for open_engine in ENGINES.values():
        opened = open_engine(str(folder), device="cpu")
        scores += [reply for _, reply in opened.answer([opened.encode(ask("One", " two"))])]
    assert scores[0].logprob == pytest.approx(scores[1].logprob, abs=1e-3)
    settings = {"until": [], "max_gen_toks": 4, "do_sample": False}
    request = opened.encode(ask("One", settings, kind="generate"))
    assert dict(opened.answer([request]))[0].text


def test_a_tokenizer_that_only_transformers_reads_is_noted(model):
    """BOS and end tokens are transformers' then."""
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": "2"}))
    with pytest.raises(MistralEvalError) as caught:
        open_native(str(model), device="cpu")
    notes = open_hf(str(model), device="cpu").identity.notes
    assert any(str(caught.value) in note for note in notes)


@pytest.mark.skipif(is_protobuf_available(), reason="with protobuf transformers reads the file")
def test_a_bare_tokenizer_model_asks_for_protobuf(model):
    (model / "tokenizer.json").unlink()
    with pytest.raises(EngineError, match=r"tokenizer\.json: `pip install protobuf`"):
        open_hf(str(model), device="cpu")


@pytest.fixture
def programmed(model, tmp_path) -> tuple[Path, Path]:
    """A model that names a program of its own, and the file that exists once it ran."""
    ran = tmp_path / "ran"
    config(auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})(model)
    (model / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import MistralConfig, MistralForCausalLM\n"
        "class Config(MistralConfig): pass\n"
        "class Model(MistralForCausalLM): config_class = Config\n"
    )
    (model / "custom_generate").mkdir()
    (model / "custom_generate/generate.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    return model, ran


@pytest.mark.parametrize("given", ["false", "False", "none", "yes", "1", "'true'", None])
def test_a_checkpoints_own_program_never_runs_unless_told_so(programmed, given):
    model, ran = programmed
    options = {} if given is None else {"trust_remote_code": given}
    with pytest.raises(MistralEvalError, match=r"own\.Config|expected true or false"):
        open_hf(str(model), device="cpu", model_args=options)
    with pytest.raises(MistralEvalError, match=r"trust_remote_code=true|knows no field"):
        open_native(str(model), device="cpu", model_args=options)
    assert not ran.exists()


def test_a_program_that_the_folder_does_not_name_does_not_run_either(programmed):
    model, ran = programmed
    config(auto_map=None)(model)
    open_hf(str(model), device="cpu")
    assert not ran.exists()


def test_a_checkpoints_own_program_runs_when_told_so(programmed):
    model, ran = programmed
    shutil.rmtree(model / "custom_generate")
    open_hf(str(model), device="cpu", model_args={"trust_remote_code": "true"})
    assert ran.exists()


def test_arguments_have_types(base):
    given = {"max_length": "64", "logits_cache": "false"}
    engine = open_hf(str(base), device="cpu", model_args=given)
    assert (engine.lm.max_length, engine.lm.logits_cache) == (64, False)
    with pytest.raises(UsageError, match="logits_cache=no: expected true or false"):
        open_hf(str(base), device="cpu", model_args={"logits_cache": "no"})


def test_an_adapter_is_checked_like_its_base(base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(base)
    adapter = tmp_path / "adapter"
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(whole, settings).save_pretrained(adapter)
    open_hf(str(base), device="cpu", model_args={"peft": str(adapter)})
    file = adapter / "adapter_model.safetensors"
    stored = load_file(file)
    name = min(stored)
    save_file({key: value for key, value in stored.items() if key != name}, file)
    with pytest.raises(MistralEvalError, match=r"tensor base_model\S+lora_A\S* is missing"):
        open_hf(str(base), device="cpu", model_args={"peft": str(adapter)})
    save_file({**stored, name.replace("q_proj", "k_proj"): stored[name].clone()}, file)
    with pytest.raises(MistralEvalError, match=r"k_proj\S+ has no place in the adapter"):
        open_hf(str(base), device="cpu", model_args={"peft": str(adapter)})


def test_an_adapter_is_not_given_twice(base):
    with pytest.raises(UsageError, match=r"--model-args sets peft, and the adapter is .*other"):
        open_hf(str(base), adapter=str(adapter_of(base)), model_args={"peft": "third"})


def adapter_of(base: Path) -> Path:
    """An adapter's folder, as far as an engine reads it before it loads weights."""
    adapter = base.parent / "other"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    return adapter


def test_a_chat_template_is_noted_by_every_engine(model):
    (model / "chat_template.jinja").write_text("{{ messages }}")
    for open_engine in ENGINES.values():
        notes = open_engine(str(model), device="cpu").identity.notes
        assert any("chat template is not used" in note for note in notes)


@pytest.mark.parametrize(
    ("engine", "context"), [(engine, length) for engine in ENGINES for length in (12, 40)]
)
def test_a_prompt_that_does_not_fit_is_cut_and_counted_or_refused(model, ask, engine, context):
    config(max_position_embeddings=context)(model)
    opened = ENGINES[engine](str(model), device="cpu")
    settings = {"until": [], "max_gen_toks": 16, "do_sample": False}
    request = ask("one two three " * 20, settings, kind="generate", task="gsm8k")
    if context == 12:
        with pytest.raises(
            EngineError, match=r"^gsm8k: 16 new tokens leave no room.*of 12\. Leave gsm"
        ):
            opened.encode(request)
        return
    encoded = [opened.encode(request), opened.encode(ask("one", " two"))]
    assert [item.truncated for item in encoded] == [True, False]
    assert len(list(opened.answer(encoded[:1]))) == 1
    assert opened.encode(ask("one two three " * 20, " four")).truncated


def test_a_librarys_exception_while_answering_names_the_benchmark(base, ask):
    engine = open_hf(str(base), device="cpu")
    settings = {"until": [], "max_gen_toks": 4, "do_sample": False, "num_beams": "many"}
    request = engine.encode(ask("one", settings, kind="generate", task="triviaqa"))
    with pytest.raises(EngineError, match=r"^triviaqa: lm-eval's hf model failed \(.+\)\. Earlier"):
        list(engine.answer([request]))


@pytest.mark.parametrize("kind", [*FAULTS, Exception])
def test_every_exception_that_a_library_raises_is_one_sentence(kind):
    namespace = {"__name__": "library", "kind": kind}
    exec("def fail():\n    raise kind('first\\nsecond')", namespace)
    with (
        pytest.raises(EngineError, match=r"^said .*first$"),
        library_faults(lambda cause: EngineError(f"said {cause}")),
    ):
        namespace["fail"]()


def test_an_exception_of_our_own_code_keeps_its_traceback():
    namespace = {"__name__": "mistral_eval.engines.hf"}
    exec("def fail():\n    raise ValueError('ours')", namespace)
    with pytest.raises(ValueError, match="ours"), library_faults(EngineError):
        namespace["fail"]()
