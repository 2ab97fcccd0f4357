"""A model whose layers are read from its files answers as one in memory, and reads each once."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import save_file

from mistral_eval.errors import CheckpointError, EngineError, ResourceError, UsageError
from mistral_eval.model import memory
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.by_layer import layer_bytes, streamed_bytes
from mistral_eval.model.load.checkpoint import Checkpoint, load_checkpoint
from mistral_eval.model.load.stored import open_safetensors
from mistral_eval.model.load.weights import weight_bytes
from mistral_eval.native.pack import cut_packs
from mistral_eval.native.pack_attention import Stack, make_attend
from mistral_eval.native.requests import Counters, GenerateRequest, Sampling, ScoreRequest, Turn
from mistral_eval.native.runner import ModelRunner
from mistral_eval.native.score_tree import score_tree
from mistral_eval.native.stream import Room, super_pack_bytes, super_packs
from mistral_eval.native.tree import build_tree
from tests.gguf_files import save_gguf
from tests.pairs import SHAPE, VOCAB, make_theirs

EOS = 2
MISTRAL = SHAPE | {"model_type": "mistral", "num_hidden_layers": 3, "sliding_window": None}
MODELS = {
    "plain": MISTRAL,
    "window": MISTRAL | {"sliding_window": 6},
    "tied": MISTRAL | {"tie_word_embeddings": True},
    "some windows": MISTRAL
    | {
        "model_type": "ministral",
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "experts": MISTRAL
    | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}
FORMATS = ("safetensors", "shards", "consolidated", "pickle")
ROOMY = Room(1 << 20, 1 << 30)


def scores() -> list[ScoreRequest]:
    """Two subjects of questions with four choices each, and one request that shares nothing."""
    found = [ScoreRequest((60, 59, 58), (1, 2))]
    for subject in (5, 9):
        shots = tuple((subject * n) % VOCAB for n in range(1, 20))
        for question in range(6):
            context = (*shots, question + 3, 7 * question % VOCAB)
            found += [ScoreRequest(context, (choice, question + 1)) for choice in range(4)]
    return found


def generations() -> list[GenerateRequest]:
    """Greedy and sampled replies behind a common block."""
    block = tuple(range(3, 15))
    greedy = [GenerateRequest((*block, 20 + n), 9) for n in range(3)]
    warm = Sampling(temperature=0.8, top_p=0.9)
    return greedy + [GenerateRequest((*block, 30), 9, warm, f"draw {n}") for n in range(5)]


@pytest.fixture(name="hf_folder", scope="module", params=MODELS)
def fixture_hf_folder(request, tmp_path_factory) -> Path:
    """A random model of each family, as transformers saves it."""
    folder = tmp_path_factory.mktemp("model")
    make_theirs(MODELS[request.param]).save_pretrained(folder)
    return folder


@pytest.fixture(name="plain_folder", scope="module")
def fixture_plain_folder(tmp_path_factory) -> Path:
    """A random model without window."""
    folder = tmp_path_factory.mktemp("plain")
    make_theirs(MISTRAL).save_pretrained(folder)
    return folder


def runner_of(found: Checkpoint, batch_tokens: int = 16) -> ModelRunner:
    return ModelRunner(
        found.config,
        found.weights,
        n_words=VOCAB,
        eos_ids=(EOS,),
        batch_tokens=batch_tokens,
        layers=found.layers,
    )


def both(folder: Path, **options) -> tuple[Checkpoint, Checkpoint]:
    """The model in memory, and with streamed layers."""
    resident, streamed = (
        load_checkpoint(folder, stream_layers=is_streamed, **options)
        for is_streamed in (False, True)
    )
    assert resident.layers is None
    assert streamed.layers is not None
    return resident, streamed


def largest_difference(left: ModelRunner, right: ModelRunner) -> float:
    one, other = (dict(runner.score(scores())) for runner in (left, right))
    assert sorted(one) == sorted(other) == list(range(len(scores())))
    assert [one[n].is_greedy for n in one] == [other[n].is_greedy for n in one]
    return max(abs(one[n].logprob - other[n].logprob) for n in one)


def assert_same_answers(folder: Path, tolerance: float, **options) -> None:
    resident, streamed = both(folder, **options)
    assert streamed.fingerprint == resident.fingerprint
    assert streamed.config == resident.config
    left, right = runner_of(resident), runner_of(streamed)
    assert largest_difference(left, right) <= tolerance
    assert right.stats.score_computed == right.stats.score_unique
    asked = generations()
    one, other = dict(left.generate(asked)), dict(right.generate(asked))
    assert [one[n].ids for n in range(len(asked))] == [other[n].ids for n in range(len(asked))]


def test_every_family_answers_the_same(hf_folder):
    assert_same_answers(hf_folder, 1e-5, dtype="float32")


def test_in_bfloat16(plain_folder):
    assert_same_answers(plain_folder, 1e-2, dtype="bfloat16")


def saved_as(kind: str, folder: Path, target: Path) -> Path:
    """Write the model of a Hugging Face folder in another format."""
    if kind == "shards":
        make_theirs(MISTRAL).save_pretrained(target, max_shard_size="20KB")
        assert len(list(target.glob("*.safetensors"))) > 2
        return target
    if kind == "safetensors":
        return folder
    found = load_checkpoint(folder, dtype="float32")
    weights = {name: tensor.clone() for name, tensor in found.weights.items()}
    config = found.config
    params = {
        name: getattr(config, name)
        for name in ("dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads")
    }
    params |= {"norm_eps": config.norm_eps, "vocab_size": config.vocab_size}
    params |= {"rope_theta": config.rope_theta, "max_seq_len": config.context_len}
    (target / "params.json").write_text(json.dumps(params))
    if kind == "consolidated":
        save_file(weights, target / "consolidated.safetensors")
    else:
        torch.save(weights, target / "consolidated.00.pth")
    return target


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_answers_the_same(kind, plain_folder, tmp_path):
    assert_same_answers(saved_as(kind, plain_folder, tmp_path), 1e-5, dtype="float32")


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("parts", [0, 5])
def test_gguf_answers_the_same(kind, parts, tmp_path):
    """Dequantised a layer at a time, from one file or its parts."""
    config = ModelConfig(
        dim=256,
        n_layers=2,
        head_dim=64,
        hidden_dim=256,
        n_heads=4,
        n_kv_heads=2,
        norm_eps=1e-5,
        vocab_size=VOCAB,
        rope_theta=1e4,
        context_len=64,
        sliding_window=(None, None),
    )
    file = save_gguf(
        tmp_path / "model.gguf", config, kind=GGMLQuantizationType[kind], tensors_per_part=parts
    )
    assert_same_answers(file, 1e-5, dtype="float32")


def test_super_packs_give_the_same_bits(hf_folder):
    """Whatever a super-pack may hold: one pack, a few, or all."""
    found = load_checkpoint(hf_folder, dtype="float32", stream_layers=True)
    asked, model = scores(), runner_of(found).model
    expected = dict(score_tree(model, asked, 16, Counters(), room=ROOMY))
    for tokens, size in ((1, 1 << 30), (40, 1 << 30), (1 << 20, 0), (1 << 20, 60_000)):
        stats = Counters()
        replies = dict(score_tree(model, asked, 16, stats, room=Room(tokens, size)))
        assert replies == expected
        assert stats.score_computed == stats.score_unique


class CountingReader:
    """A reader of layers that counts how often it reads each."""

    def __init__(self, reader) -> None:
        self.reader = reader
        self.reads = Counter[int]()

    def tensors_of(self, layer: int):
        self.reads[layer] += 1
        return self.reader.tensors_of(layer)


@pytest.mark.parametrize(("tokens", "times"), [(1 << 20, 1), (48, 3)])
def test_each_layer_is_read_once_for_a_super_pack(plain_folder, tokens, times):
    """And the first one once more, ahead of what may follow."""
    found = load_checkpoint(plain_folder, dtype="float32", stream_layers=True)
    counting = CountingReader(found.layers)
    model = runner_of(replace(found, layers=counting)).model
    stats = Counters()
    list(score_tree(model, scores(), 16, stats, room=Room(tokens, 1 << 30)))
    assert -(-stats.score_unique // tokens) == times
    model.layers._thread.shutdown()
    assert counting.reads == {0: times + 1, 1: times, 2: times}


def test_at_most_two_layers_are_in_memory_when_the_next_is_read(plain_folder):
    found = load_checkpoint(plain_folder, dtype="float32", stream_layers=True)
    alive: WeakSet[torch.Tensor] = WeakSet()
    most = []

    class Watching(CountingReader):
        def tensors_of(self, layer: int):
            most.append(len(alive))
            tensors = super().tensors_of(layer)
            alive.add(tensors[f"layers.{layer}.ffn_norm.weight"])
            return tensors

    runner = runner_of(replace(found, layers=Watching(found.layers)))
    list(runner.score(scores()))
    list(runner.generate(generations()))
    assert len(most) > 20
    assert max(most) <= 2


LIMITED = """
import resource, sys
from pathlib import Path
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.native.requests import ScoreRequest
from mistral_eval.native.runner import ModelRunner

def score(folder, is_streamed):
    found = load_checkpoint(Path(folder), dtype="float32", stream_layers=is_streamed)
    runner = ModelRunner(
        found.config, found.weights, n_words=61, eos_ids=(), batch_tokens=64, layers=found.layers
    )
    return len(list(runner.score([ScoreRequest((1, 2, 3), (4, n)) for n in range(9)])))

small, large, is_streamed, room = sys.argv[1], sys.argv[2], sys.argv[3] == "True", int(sys.argv[4])
score(small, is_streamed)  # what torch allocates once
fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
held = int(fields["VmData"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + room, held + room))
print(score(large, is_streamed))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit mapped memory")
def test_the_kernel_grants_a_streamed_model_what_a_resident_one_lacks(plain_folder, tmp_path):
    """Under a limit of a third of the weights, in a process of its own."""
    wide = {"hidden_size": 512, "intermediate_size": 1792, "num_hidden_layers": 16}
    make_theirs(MISTRAL | wide).save_pretrained(tmp_path)
    stored = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    ends = {}
    for is_streamed in (True, False):
        command = [sys.executable, "-c", LIMITED, plain_folder, tmp_path, is_streamed, stored // 3]
        ends[is_streamed] = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert ends[True].returncode == 0, ends[True].stderr
    assert ends[True].stdout == "9\n"
    assert ends[False].returncode != 0
    assert "allocate" in ends[False].stderr


def test_known_requests_are_not_computed_and_change_no_bit(plain_folder):
    found = load_checkpoint(plain_folder, dtype="float32", stream_layers=True)
    asked, model = scores(), runner_of(found).model
    whole = dict(score_tree(model, asked, 16, Counters(), room=Room(48, 1 << 30)))
    known = frozenset(range(30))
    rest = dict(score_tree(model, asked, 16, Counters(), turn=Turn(known), room=ROOMY))
    assert rest == {n: reply for n, reply in whole.items() if n not in known}


def test_a_stop_ends_the_super_pack_in_progress(plain_folder):
    """Replies of finished super-packs were given; the one in progress is dropped."""
    found = load_checkpoint(plain_folder, dtype="float32", stream_layers=True)
    runner = runner_of(found)
    asked, seen = scores(), []
    turn = Turn(stopping=lambda: len(seen) > 0)
    for n, _ in score_tree(runner.model, asked, 16, Counters(), turn=turn, room=Room(48, 1 << 30)):
        seen.append(n)
    assert 0 < len(seen) < len(asked)
    assert len(dict(runner.score(asked))) == len(asked)  # a walk that was cut short leaves no trace


def test_a_damaged_tensor_of_a_layer_is_found_before_the_run(plain_folder, tmp_path):
    folder = saved_as("consolidated", plain_folder, tmp_path)
    weights = load_checkpoint(folder, dtype="float32").weights
    weights["layers.1.feed_forward.w2.weight"][3, 5] = torch.nan
    save_file(weights, folder / "consolidated.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.w2\.weight holds NaN"):
        load_checkpoint(folder, stream_layers=True)


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(plain_folder, tmp_path):
    folder = saved_as("consolidated", plain_folder, tmp_path)
    file = folder / "consolidated.safetensors"
    tensors = open_safetensors(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        [tensor.read() for tensor in tensors.values()]


def test_a_file_that_changes_while_it_is_read_is_an_error(plain_folder, tmp_path):
    folder = saved_as("consolidated", plain_folder, tmp_path)
    runner = runner_of(load_checkpoint(folder, dtype="float32", stream_layers=True))
    file = folder / "consolidated.safetensors"
    file.write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="was changed"):
        list(runner.score(scores()))


def test_spoilt_logits_name_their_request(plain_folder):
    """A model that overflows is reported as one in memory is."""
    found = load_checkpoint(plain_folder, dtype="float32", stream_layers=True)
    found.weights["norm.weight"].fill_(3e38)
    with pytest.raises(EngineError, match="not finite"):
        list(runner_of(found).score(scores()))


def cut(tree):
    return cut_packs(tree, 16, 64)


def free(monkeypatch, size: int) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda _device: size)


def test_streaming_is_chosen_where_the_weights_do_not_fit(plain_folder, monkeypatch):
    config = load_checkpoint(plain_folder).config
    needed = weight_bytes(config, torch.float32)
    for size, is_streamed in ((needed, False), (needed - 1, True)):
        free(monkeypatch, size)
        found = load_checkpoint(plain_folder, dtype="float32", stream_layers=None)
        assert (found.layers is not None) == is_streamed


def test_a_choice_is_kept(plain_folder, monkeypatch):
    free(monkeypatch, 10**12)
    assert load_checkpoint(plain_folder, stream_layers=True).layers is not None
    config = load_checkpoint(plain_folder).config
    free(monkeypatch, weight_bytes(config, torch.float32) - 1)
    with pytest.raises(ResourceError, match="GiB are free"):
        load_checkpoint(plain_folder, dtype="float32", stream_layers=False)
    free(monkeypatch, streamed_bytes(config, torch.float32) - 1)
    with pytest.raises(ResourceError, match="a layer at a time"):
        load_checkpoint(plain_folder, dtype="float32", stream_layers=None)


def test_what_streaming_holds_is_two_layers_and_the_rest(plain_folder):
    config = load_checkpoint(plain_folder).config
    layer = layer_bytes(config, torch.float32)
    ends = sum(
        tensor.numel() * 4
        for name, tensor in load_checkpoint(plain_folder, dtype="float32").weights.items()
        if not name.startswith("layers.")
    )
    assert streamed_bytes(config, torch.float32) == ends + 2 * layer
    assert weight_bytes(config, torch.float32) == ends + config.n_layers * layer


@pytest.mark.parametrize("room", [ROOMY, Room(48, 1 << 30), Room(1 << 20, 100_000)])
def test_what_is_planned_bounds_what_a_super_pack_holds(hf_folder, room):
    """Hidden states and masks; keys and values to the byte where it is clear that all fits."""
    found = load_checkpoint(hf_folder, dtype="float32", stream_layers=True)
    model, tree = runner_of(found).model, build_tree(scores())
    states, kept = super_pack_bytes(model.config, model.dtype, tree, 16, room)
    members, is_all = next(super_packs(model.config, model.dtype, tree, cut(tree), 16, room))
    stack = Stack(model, tree.height, 16, one_layer=is_all)
    held = sum(tensor.untyped_storage().nbytes() for tensor in (stack._path, stack._slots))
    masks = sum(
        call.mask.nbytes
        for pack in members
        for plan in {id(p): p for p in make_attend(stack, pack)._plans.values()}.values()
        for call in plan.calls
    )
    tokens = sum(pack.last - pack.first for pack in members)
    assert kept == held if room is ROOMY else kept >= held
    assert tokens * model.config.dim * 4 + masks <= states


def test_an_adapter_is_refused(plain_folder, tmp_path):
    with pytest.raises(UsageError, match="--stream-layers"):
        load_checkpoint(plain_folder, adapter=tmp_path, stream_layers=True)
