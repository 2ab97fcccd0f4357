"""The tiny model is the same everywhere, varied enough to test with, and made at once."""

import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer
from tests.checkpoints import save_raw

# Committed: a change of NumPy, torch or machine must not change the model.
FINGERPRINT = "6d29ed5cd3b701d6d9cf55fffb9dec6c8678dffcfb445c6f060711d3ce88dfd9"


def test_the_fingerprint_is_the_committed_one():
    assert make_tiny().fingerprint == FINGERPRINT


def philox(counter: int) -> list[int]:
    """Philox 4x64 with 10 rounds and key 0, written from its paper; four words a counter."""
    mask = 2**64 - 1
    x, key = [counter, 0, 0, 0], [0, 0]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [second >> 64 ^ x[1] ^ key[0], second & mask, first >> 64 ^ x[3] ^ key[1], first & mask]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return x


def test_its_first_weights_follow_from_philox_by_plain_arithmetic():
    """The slow twin; 24 bits of each 32-bit half, low half first, NumPy counting from 1."""
    words = [*philox(1), *philox(2)]
    halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    uniform = torch.tensor([((half >> 8) - 2**23) / 2**23 for half in halves])

    row = make_tiny().weights["tok_embeddings.weight"][0, :16]

    assert torch.equal(uniform * torch.tensor(3.0**0.5), row)


def test_another_seed_is_another_model():
    assert make_tiny(1).fingerprint != FINGERPRINT


def test_it_is_made_in_less_than_a_second():
    started = time.process_time()  # of work: other programs' does not count
    make_tiny()

    assert time.process_time() - started < 1.0


def test_it_is_a_mistral_of_a_few_million_parameters_with_room_for_mmlu():
    tiny = make_tiny()
    tokenizer = load_tokenizer(tiny_tokenizer_file(), expected_vocab=tiny.config.vocab_size)

    assert 2e6 < sum(weight.numel() for weight in tiny.weights.values()) < 8e6
    assert (tiny.config.n_heads, tiny.config.n_kv_heads) == (4, 2)
    assert tiny.config.sliding_window == (4096,) * 4
    assert tiny.config.context_len > 3377 + 512
    assert tokenizer.n_words == tiny.config.vocab_size == 32000


def test_it_survives_both_formats_and_keeps_its_fingerprint(tmp_path):
    tiny = make_tiny()

    for name, write in (("hf", save_hf), ("raw", save_raw)):
        loaded = load_checkpoint(write(tiny, tmp_path / name))

        assert loaded.fingerprint == FINGERPRINT
        assert loaded.config == tiny.config
        assert all(torch.equal(loaded.weights[n], w) for n, w in tiny.weights.items())


def test_its_greedy_text_neither_stands_still_nor_depends_on_nothing(tmp_path):
    """Transformers loads the folder `--engine hf --model tiny` is given, tokenizer and all."""
    save_hf(make_tiny(), tmp_path, tokenizer_file=tiny_tokenizer_file())
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = []
    for prompt in ("Question: What is 2+2?\nAnswer:", "The capital of France is"):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        assert ids[0].tolist().count(1) == 1
        made = model.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0)
        texts.append(made[0, ids.shape[1] :].tolist())
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        assert 1.5 < logits.std().item() < 3.5

    assert all(len(set(text)) > 24 for text in texts)
    assert texts[0] != texts[1]
