"""The server engine against llama.cpp's own server, which the package xllamacpp contains.

A file of random weights in float32 is served: llama.cpp rounds activations to 8 bits where weights
are quantised, so replies of other types part from the native engine's.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from mistral_eval.engines.auto import engine_class
from mistral_eval.engines.native import open_native
from mistral_eval.engines.server import ServerEngine
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.settings import RunSettings
from tests.gguf_files import save_gguf
from tests.model.test_tokenizer_gguf import sentencepiece_fields

pytest.importorskip("xllamacpp", reason="needs xllamacpp, whose wheels are for Linux")

SERVER = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.warmup = 2048, 4, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("listening", server.listening_address, flush=True)
sys.stdin.read()
"""
SLOT = 512  # tokens of a slot's context: a quarter of the server's
GREEDY = {"until": [], "max_gen_toks": 24, "do_sample": False}
CONFIG = ModelConfig(
    dim=64,
    n_layers=2,
    head_dim=16,
    hidden_dim=96,
    n_heads=4,
    n_kv_heads=2,
    norm_eps=1e-5,
    vocab_size=32000,
    rope_theta=1e4,
    context_len=2048,
    sliding_window=(None, None),
)
PROMPTS = ["Q: How much is 6 times 7?\nA:", "def f():\n", "\u00e9 \u6f22", "<s>[INST] hi [/INST]"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    processor = sentencepiece.SentencePieceProcessor(str(tiny_tokenizer_file()))
    folder = tmp_path_factory.mktemp("llama")
    return save_gguf(
        folder / "model.gguf", CONFIG, tokenizer=sentencepiece_fields(processor), seed=1
    )


@pytest.fixture(scope="module")
def engine(file):
    """The engine that asks llama.cpp's server."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        line = next((one for one in server.stdout if one.startswith("listening")), "")
        assert line, "the server ended before it listened"
        yield open_server(file, f"{line.split()[1]}/v1")
        server.stdin.close()


def open_server(file: Path, url: str) -> ServerEngine:
    settings = RunSettings(tasks=("gsm8k",), model=str(file), engine="server", base_url=url)
    engine = engine_class("server").open(settings, None, lambda text: None)
    assert isinstance(engine, ServerEngine)
    return engine


@pytest.fixture(scope="module")
def native(file):
    return open_native(str(file), dtype="float32", device="cpu")


def answers(engine, asks) -> list:
    found = dict(engine.answer([engine.encode(one) for one in asks]))
    return [found[place] for place in range(len(asks))]


def test_what_it_does_is_found_out(engine):
    told = engine.identity.info["server"]
    assert told["version"].startswith("llama.cpp ")
    assert (told["traits"]["takes_ids"], told["traits"]["ids"]) == (True, "content")
    assert told["seed_honoured"]
    assert engine.context_len == SLOT
    assert engine.can.samples
    assert engine.can.exact_text
    assert engine.can.why["log-likelihoods"].endswith("no log-probabilities of the prompt")


def test_greedy_replies_have_the_native_engines_ids(engine, native, ask):
    asks = [ask(prompt, GREEDY, kind="generate") for prompt in PROMPTS]
    for theirs, ours in zip(answers(engine, asks), answers(native, asks), strict=True):
        assert (theirs.text, theirs.finish) == (ours.text, ours.finish)
        assert theirs.ids in (ours.ids, None)  # None where tokens ended within a character


def test_stop_strings_end_a_reply_and_leave_it_comparable(engine, native, ask):
    (whole,) = answers(native, [ask(PROMPTS[0], GREEDY, kind="generate")])
    stops = [whole.text[place : place + 2] for place in (0, 5, 20)]
    asks = [ask(PROMPTS[0], {**GREEDY, "until": [stop]}, kind="generate") for stop in stops]
    for one, reply in zip(asks, answers(engine, asks), strict=True):
        assert reply.finish == "stop"
        assert reply.text == one.generation.cut(whole.text)
        assert not native.compare(native.encode(one), reply, is_other=True).fault


def test_eight_samples_are_eight_draws(engine, ask):
    drawn = {**GREEDY, "do_sample": True, "temperature": 1.0, "top_p": 0.95}
    asks = [ask(PROMPTS[0], drawn, sample=n, kind="generate") for n in range(8)]
    assert len({reply.text for reply in answers(engine, asks)}) == 8


def test_a_prompt_beyond_the_context_is_cut_on_the_left(engine, ask):
    one = ask("word " * 3000, GREEDY, kind="generate")
    assert engine.encode(one).truncated
    (reply,) = answers(engine, [one])
    assert reply.ids
