"""Draft tokens change no reply, and a reply that repeats itself takes fewer steps."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.errors import EngineError
from mistral_eval.model.products import FEW_ROWS
from mistral_eval.model.shared_cache import Row, SharedCache
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.admission import Budget
from mistral_eval.native.drafts import NgramProposer, shortened
from mistral_eval.native.generate_shared import SharedGenerator
from mistral_eval.native.plain import PlainGenerator
from mistral_eval.native.requests import Counters, GenerateRequest, Sampling
from mistral_eval.native.sampling import NO_TOKEN, Draw, Drawn, Running, Sampler

KINDS = ["window 8", "window 64", "no window", "windows 5 and none"]
COOL = Sampling(0.2, top_p=0.95)


@pytest.fixture(name="model", params=KINDS, scope="module")
def fixture_model(request, make_engine, make_mixed_engine):
    if request.param == "windows 5 and none":
        return make_mixed_engine().model
    window = {"window 8": 8, "window 64": 64, "no window": None}[request.param]
    return make_engine(None, window).model


@pytest.fixture(name="free", scope="module")
def fixture_free(make_engine, make_weights):
    """A toy whose next token depends on the last one alone, so that greedy replies are loops."""
    config = make_engine(None, None).model.config
    weights = make_weights(config)
    for name, tensor in weights.items():
        if name.endswith("attention.wo.weight"):
            tensor.zero_()
    return Transformer(config, weights, config.vocab_size)


def proposer(many: int) -> NgramProposer:
    """One that proposes so many tokens, a power of 2."""
    found = NgramProposer()
    while many > 1:
        found.learn(1, 1)
        many //= 2
    return found


class TestProposals:
    def test_what_followed_the_last_tokens_before_is_proposed(self):
        assert proposer(2).propose([9, 1, 2, 5, 6, 1, 2], 2) == [5, 6]

    def test_the_latest_place_counts(self):
        assert NgramProposer().propose([1, 2, 5, 1, 2, 6, 1, 2], 1) == [6]

    @pytest.mark.parametrize(
        "ids", [[], [1], [1, 2], [1, 1], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 1]]
    )
    def test_new_text_has_no_draft(self, ids):
        assert NgramProposer().propose(ids, 5) == []

    def test_a_loop_goes_on(self):
        proposer = NgramProposer()
        for _ in range(4):
            proposer.learn(1, 1)
        assert proposer.propose([1, 2] * 4, 5) == [1, 2, 1, 2, 1]
        assert proposer.propose([7] * 9, 16) == [7] * 16

    def test_as_many_as_there_is_room_for(self):
        assert NgramProposer().propose([7] * 9, 0) == []
        assert NgramProposer().propose([7] * 9, -3) == []
        assert NgramProposer().propose([7] * 9, 1) == [7]

    def test_accepted_drafts_grow_and_others_shrink(self):
        proposer = NgramProposer()
        lengths = []
        for right in (True, True, True, True, True, False, False, False, False, False, True):
            draft = proposer.propose([7] * 9, 99)
            lengths.append(len(draft))
            proposer.learn(len(draft), len(draft) if right else 0)
        assert lengths == [1, 2, 4, 8, 16, 16, 8, 4, 2, 1, 1]

    def test_nothing_is_learnt_from_no_draft(self):
        proposer = NgramProposer()
        proposer.learn(0, 0)
        assert len(proposer.propose([7] * 9, 99)) == 1

    def test_a_reply_is_indexed_as_it_grows(self):
        whole, grown = [5, 1, 2, 3, 4, 8, 9, 1, 2, 3, 4], NgramProposer()
        for end in range(len(whole)):
            grown.propose(whole[:end], 3)
        assert grown.propose(whole, 2) == NgramProposer().propose(whole, 2) == [8]


@pytest.mark.parametrize(
    ("lengths", "room", "expected"),
    [
        ([3, 1, 16], 99, [3, 1, 16]),
        ([3, 1, 16], 12, [3, 1, 8]),
        ([16, 16, 16], 31, [11, 10, 10]),
        ([2, 1, 2], 3, [1, 1, 1]),
        ([2, 1, 2], 2, [1, 1, 0]),
        ([], 5, []),
        ([0, 0], 5, [0, 0]),
        ([0, 9], 5, [0, 5]),
    ],
)
def test_the_longest_drafts_are_cut_until_all_fit(lengths, room, expected):
    drafts = [list(range(n)) for n in lengths]
    found = shortened(drafts, room)
    assert list(map(len, found)) == expected
    assert all(draft == whole[: len(draft)] for draft, whole in zip(found, drafts, strict=True))


@st.composite
def requests_(draw):
    """Questions behind a block; greedy or nearly so, which makes the toy repeat itself."""
    block = draw(st.lists(st.integers(3, 60), min_size=1, max_size=12))
    found = []
    for tail in draw(st.lists(st.lists(st.integers(3, 60), max_size=4), min_size=1, max_size=3)):
        tokens = draw(st.sampled_from([1, 5, 40, 75]))
        stop = draw(st.sampled_from([None, 11, 30]))
        is_done = None if stop is None else (lambda ids, stop=stop: ids[-1] == stop)
        prompt = (1, *block, *tail)
        found += [
            GenerateRequest(prompt, tokens, sampling, f"{tail}|{n}", is_done=is_done)
            for n, sampling in enumerate((Sampling(), COOL)[: draw(st.integers(1, 2))])
        ]
    return found


@settings(max_examples=12)
@given(requests=requests_(), rows=st.integers(1, 12))
def test_replies_are_those_of_the_plain_generator(model, requests, rows):
    plain = dict(PlainGenerator(model, (2, 7), rows=3, chunk=7).run(requests))
    stats = Counters()
    generator = SharedGenerator(model, (2, 7), Budget(rows, 50, 2000), stats, lookahead=99)
    assert dict(generator.run(requests)) == plain
    ends = sum(len(reply.ids) + (reply.finish == "eos") for reply in plain.values())
    assert stats.generated == ends
    assert stats.accepted_tokens <= stats.draft_tokens


def test_a_reply_that_repeats_itself_takes_fewer_steps(free):
    requests = [GenerateRequest((1, 9 + n, 8), 90, Sampling(), str(n)) for n in range(3)]
    found = {}
    for lookahead in (0, 48):
        stats = Counters()
        generator = SharedGenerator(free, (), Budget(64, 64, 9000), stats, lookahead=lookahead)
        found[lookahead] = dict(generator.run(requests)), stats
    (plain, slow), (drafted, fast) = found[0], found[48]

    assert drafted == plain
    assert (slow.draft_tokens, slow.decode_steps) == (0, 89)
    assert fast.accepted_tokens > 0.7 * fast.draft_tokens
    assert fast.decode_steps < slow.decode_steps / 2
    assert fast.generated == slow.generated
    assert fast.generate_flop == slow.generate_flop  # useful arithmetic


@pytest.mark.parametrize("window", [None, 64])
def test_tokens_behind_accepted_ones_see_them(make_engine, window):
    """A toy with attention: keys in wrong places would change its replies."""
    model = make_engine(None, window).model
    requests = [GenerateRequest((1, 9 + n, 8), 90, Sampling(), str(n)) for n in range(3)]
    plain = dict(PlainGenerator(model, (), rows=3, chunk=7).run(requests))
    stats = Counters()
    generator = SharedGenerator(model, (), Budget(64, 64, 9000), stats)
    assert dict(generator.run(requests)) == plain
    assert 10 < stats.accepted_tokens < stats.draft_tokens  # right and wrong ones


def test_nothing_is_drafted_beyond_the_last_token(free):
    """The reply ends where the model's context does."""
    prompt = tuple(range(1, 7))
    request = GenerateRequest(prompt, free.config.context_len - len(prompt))
    plain = dict(PlainGenerator(free, (), rows=3, chunk=7).run([request]))
    generator = SharedGenerator(free, (), Budget(64, 64, 9000), Counters())
    assert dict(generator.run([request])) == plain


def forced(monkeypatch, draft):
    """Let every reply have the draft `draft(ids)`, as many tokens as there is room for."""
    monkeypatch.setattr(NgramProposer, "propose", lambda _, ids, most: draft(ids)[: max(0, most)])


@pytest.mark.parametrize("windows", [(8, 8), (5, None), (None, None)])
def test_rejected_tokens_leave_nothing_behind_in_the_last_slot_either(
    make_engine, make_weights, monkeypatch, windows
):
    config = replace(make_engine(None, None).model.config, sliding_window=windows)
    model = Transformer(config, make_weights(config), config.vocab_size)
    requests = [GenerateRequest((1, 9 + n, 8), 40, COOL, str(n)) for n in range(3)]
    plain = dict(PlainGenerator(model, (), rows=3, chunk=7).run(requests))
    forced(monkeypatch, lambda _: [3] * 16)
    stats = Counters()
    generator = SharedGenerator(model, (), Budget(64, 64, 9000), stats)
    assert dict(generator.run(requests)) == plain
    assert stats.draft_tokens > 10


def test_room_ahead_ends_where_a_rolling_buffer_does(make_mixed_engine):
    """Windows 5 and none: the next token and four behind it fill the ring of an empty row."""
    cache = SharedCache(make_mixed_engine().model)
    prompt = cache.add_prompt(cache.add_root(2), 3)
    assert [cache.room_ahead(Row(prompt, length)) for length in (0, 2, 4, 5, 9)] == [4, 2, 0, 0, 0]


@pytest.mark.parametrize("samples", [1, 3, 12, 16])
def test_a_step_with_drafts_is_multiplied_as_one_with_few_rows(free, monkeypatch, samples):
    """Weights in half precision give other bits in the way of many rows."""
    seen = []
    hidden = free.hidden
    monkeypatch.setattr(
        free, "hidden", lambda ids, *more: seen.append(len(ids)) or hidden(ids, *more)
    )
    forced(monkeypatch, lambda ids: [ids[-1]] * 48)
    generator = SharedGenerator(free, (), Budget(64, 64, 9000), Counters())
    list(generator.run([GenerateRequest((1, 9), 70, Sampling(), str(n)) for n in range(samples)]))
    assert max(seen) < FEW_ROWS
    assert max(seen) > FEW_ROWS - 1 - samples


def spoilt_word(free, requests, plain) -> tuple[int, list, list]:
    """A word, and the requests whose replies lack it, or have it behind their first token."""
    for word in range(3, 60):
        has = [word in plain[n].ids[:-1] for n in range(len(requests))]
        late = [has[n] and plain[n].ids.index(word) > 0 for n in range(len(requests))]
        fair = [word not in request.prompt for request in requests]
        good = [r for r, had, ok in zip(requests, has, fair, strict=True) if ok and not had]
        bad = [r for r, is_late, ok in zip(requests, late, fair, strict=True) if ok and is_late]
        if good and bad:
            return word, good[:3], bad
    raise AssertionError("no word serves")


@pytest.mark.parametrize("where", ["logits", "keys"])
def test_a_draft_that_is_not_finite_fails_only_if_it_is_accepted(free, monkeypatch, where):
    """What one token leads to is NaN. A reply that never draws it may have it in a draft."""
    requests = [GenerateRequest((1, n), 20, Sampling(), str(n)) for n in range(3, 60)]
    plain = dict(PlainGenerator(free, (), rows=60, chunk=7).run(requests))
    spoilt, good, bad = spoilt_word(free, requests, plain)
    expected = dict(PlainGenerator(free, (), rows=60, chunk=7).run(good))

    class Spoilt:
        """The toy, but for that token's hidden states and all they leave, or its logits alone."""

        def __getattr__(self, name):
            return getattr(free, name)

        def hidden(self, tokens, positions, attend, rows=None):
            self.fed = tokens
            if where == "logits":
                return free.hidden(tokens, positions, attend, rows)
            is_spoilt = tokens == spoilt

            def broken(layer, q, k, v):
                k[is_spoilt] = torch.nan
                v[is_spoilt] = torch.nan
                return attend(layer, q, k, v)

            found = free.hidden(tokens, positions, broken, rows)
            asked = is_spoilt if rows is None else is_spoilt[rows]
            return found.masked_fill(asked[:, None], torch.nan)

        def logits(self, hidden):
            found = free.logits(hidden).clone()
            if where == "logits":
                found[self.fed[-len(found) :] == spoilt] = torch.nan
            return found

    forced(monkeypatch, lambda _: [spoilt] * 2)
    generator = SharedGenerator(Spoilt(), (), Budget(64, 64, 9000), Counters())
    assert dict(generator.run(good)) == expected
    if where == "logits":
        assert generator.stats.draft_tokens > 0
    for request in bad:
        with pytest.raises(EngineError, match="not finite"):
            list(generator.run([request]))


@pytest.mark.parametrize("windows", [(8, 8), (5, None), (64, 64), (None, None)])
def test_a_draft_that_overflows_leaves_rows_past_their_window_alone(
    make_engine, make_weights, monkeypatch, windows
):
    """A long reply has gone round its rolling buffer when a new one's draft token is NaN."""
    config = replace(make_engine(None, None).model.config, sliding_window=windows, context_len=300)
    model = Transformer(config, make_weights(config), config.vocab_size)
    wanted = [("long", 90), ("a", 70), ("b", 70), ("c", 70), ("new", 20)]
    requests = [GenerateRequest((1, 9), n, COOL, key) for key, n in wanted]
    plain = dict(PlainGenerator(model, (), rows=5, chunk=7).run(requests))
    drawn = {token for reply in plain.values() for token in reply.ids}
    spoiling = next(word for word in range(3, 60) if word not in drawn and word != 9)
    done, spoilt = [], []

    class Overflowing:
        def __getattr__(self, name):
            return getattr(model, name)

        def hidden(self, tokens, positions, attend, rows=None):
            found = model.hidden(tokens, positions, attend, rows)
            is_draft = tokens == spoiling
            if len(done) < 3 or len(found) != len(tokens) or not is_draft.any():
                return found
            spoilt.append(len(tokens))
            return found.masked_fill(is_draft[:, None], torch.nan)

    forced(monkeypatch, lambda _: [spoiling])
    generator = SharedGenerator(Overflowing(), (), Budget(4, 64, 9000), Counters())
    for n, reply in generator.run(requests):
        done.append(n)
        assert reply == plain[n]
    assert len(done) == len(requests)
    assert len(spoilt) == 1, "after it nothing is drafted"


@pytest.mark.parametrize(("rows", "late"), [(1, False), (64, True)])
def test_nothing_is_drafted_without_room_or_when_tokens_are_read_late(free, rows, late):
    stats = Counters()
    budget = Budget(rows, 64, 9000)
    generator = SharedGenerator(free, (), budget, stats, reads_late=late, lookahead=48)
    list(generator.run([GenerateRequest((1, 9, 8), 60)]))
    assert stats.draft_tokens == 0


def test_many_samples_leave_no_room_for_drafts(free):
    """A step of 48 tokens computes them instead; draft tokens come when few are left."""
    stats = Counters()
    generator = SharedGenerator(free, (), Budget(64, 64, 9000), stats)
    list(generator.run([GenerateRequest((1, 9, 8), 40, Sampling(), str(n)) for n in range(47)]))
    assert stats.draft_tokens == 0
    assert stats.decode_rows == 47


def test_a_draft_never_wraps_around_a_rolling_buffer(make_engine):
    """It would overwrite a key that must be seen again if the draft is wrong."""
    model = make_engine(None, 8).model
    requests = [GenerateRequest((1, 9 + n, 8), 60, COOL, str(n)) for n in range(4)]
    plain = dict(PlainGenerator(model, (), rows=3, chunk=7).run(requests))
    generator = SharedGenerator(model, (), Budget(16, 64, 9000), Counters(), lookahead=99)
    assert dict(generator.run(requests)) == plain


def test_a_row_that_is_not_finite_ends_a_draft_and_no_run():
    logits = torch.zeros(3, 20)
    logits[:, 5] = 9
    logits[1, 3] = torch.nan
    running = Running(4, GenerateRequest((1,), 9))
    drawn = Drawn(
        Sampler(20, torch.device("cpu")), logits, [Draw(Sampling(), "", n) for n in range(3)]
    )
    assert drawn.read([running] * 3, [True, False, False]) == [5, NO_TOKEN, 5]
