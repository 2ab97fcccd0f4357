"""Our run and lm-eval's own, of the same requests on the same weights: equal to 1e-4.

lm-eval's part is its evaluator and its `hf` model over transformers, which share no code with ours
but the task files. Real test sets where they are at hand, else the bundled sample. lm-eval adds a
continuation's log-probabilities in float32: beyond 256 nats that sum is coarser than 1e-4.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from mistral_eval.engines.lm_eval_model import MistralLM, ask, request_of
from mistral_eval.engines.native import open_native
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from tests.lm_eval_runs import Both

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = str(SHARED) if SHARED.is_dir() else "sample"
CHOICES = ("mmlu", "hellaswag", "winogrande", "piqa", "arc_easy", "arc_challenge")
TEXTS = ("nq", "triviaqa")
QUESTIONS = 100
GENERATIONS = 10  # of each of TEXTS
EOS = 2
FLOAT32 = 2**-21  # four units in the last place of a float32


class RecordingHFLM(HFLM):
    """lm-eval's hf model; keeps the ids it generated, by prompt length and order."""

    generated: list[list[int]]

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        whole = super()._model_generate(context, *args, **kwargs)
        assert len(whole) == 1, "one prompt at a time, so that nothing is padded"
        self.generated.append(whole[0].tolist())
        return whole


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Both:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp("tiny")
    save_hf(make_tiny(), folder, tokenizer_file=tiny_tokenizer_file())
    hf = RecordingHFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=8, add_bos_token=True
    )
    hf.generated = []
    found = Both("tiny", DATA, hf)
    found.run(CHOICES, QUESTIONS, tmp_path_factory.mktemp("choices"))
    hf.batch_size_per_gpu = 1
    found.run(TEXTS, GENERATIONS, tmp_path_factory.mktemp("texts"))
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("benchmark", CHOICES)
def test_log_likelihoods_and_greedy_flags_are_lm_evals(both, benchmark):
    ours, theirs = both.our_samples[benchmark], both.their_samples[benchmark]
    assert len(ours) == (QUESTIONS if DATA != "sample" else 16)
    assert [row["doc_id"] for row in ours] == [row["doc_id"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert [float(ll) for ((ll, _),) in mine["resps"]] == pytest.approx(
            [ll for ((ll, _),) in other["resps"]], abs=1e-4, rel=FLOAT32
        )
        assert [greedy for ((_, greedy),) in mine["resps"]] == [
            str(greedy) for ((_, greedy),) in other["resps"]
        ]


@pytest.mark.parametrize("benchmark", CHOICES + TEXTS)
def test_the_scores_of_the_results_files_are_lm_evals(both, benchmark):
    """Every metric and every standard error, under the same keys."""
    theirs = both.theirs[benchmark]
    expected = {key: value for key, value in theirs.items() if "," in key and value != "N/A"}
    assert len(expected) >= 2
    ours = {key: both.ours[benchmark].get(key) for key in expected}
    assert ours == pytest.approx(expected, abs=1e-9)
    assert both.ours[benchmark]["sample_len"] == theirs["sample_len"]


@pytest.mark.parametrize("benchmark", CHOICES + TEXTS)
def test_rows_of_the_samples_files_are_lm_evals(both, benchmark):
    """The same keys, questions, targets and hashes; ours add the verdict and the subject."""
    for mine, other in zip(both.our_samples[benchmark], both.their_samples[benchmark], strict=True):
        assert mine.keys() - other.keys() == {"verdict", "stratum"}
        assert other.keys() - mine.keys() == set()
        for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash", "filter", "metrics"):
            assert mine[key] == other[key], key
        assert mine["target"] == str(other["target"])


def test_greedy_ids_and_texts_are_lm_evals(both):
    """20 generations. lm-eval's ids are decoded with their prompt here: alone they lose a space."""
    engine = open_native("tiny")
    tokenizer = engine.tokenizer
    compared = 0
    for benchmark in TEXTS:
        for row in both.our_samples[benchmark]:
            prompt, gen_kwargs = row["arguments"]["gen_args_0"].values()
            ids = tokenizer.encode(prompt, bos=True)
            one = Instance("generate_until", {}, (prompt, gen_kwargs), 0, metadata=("t", 0, 1))
            (reply,) = ask(engine, [request_of(one)])
            (whole,) = [g for g in both.hf.generated if g[: len(ids)] == ids]
            theirs = whole[len(ids) :]
            theirs = theirs[: theirs.index(EOS)] if EOS in theirs else theirs
            assert list(reply.ids) == theirs
            text = tokenizer.decode(ids + theirs).removeprefix(tokenizer.decode(ids))
            for stop in gen_kwargs["until"]:
                text = text.partition(stop)[0]
            assert row["resps"] == [[text]] == [[reply.text]]
            compared += 1
    assert compared == 2 * GENERATIONS


def test_what_greedy_decoding_says_is_greedy_in_both(both):
    """Continuations that the model itself would write, beside some that it would not."""
    lm = MistralLM(partial(ask, open_native("tiny")))
    prompts = [row["arguments"]["gen_args_0"]["arg_0"] for row in both.our_samples["nq"]]
    one_token = {"until": [], "max_gen_toks": 1, "do_sample": False}
    said = lm.generate_until(
        [
            Instance("generate_until", {}, (prompt, one_token), 0, metadata=("t", n, 1))
            for n, prompt in enumerate(prompts)
        ]
    )
    pairs = [*zip(prompts, said, strict=True), *((prompt, " A") for prompt in prompts)]
    instances = [
        Instance("loglikelihood", {}, pair, 0, metadata=("t", n, 1))
        for n, pair in enumerate(pairs)
        if pair[1]
    ]
    ours, theirs = lm.loglikelihood(instances), both.hf.loglikelihood(instances)
    flags = [greedy for _, greedy in ours]
    assert flags == [greedy for _, greedy in theirs]
    assert set(flags) == {True, False}
