"""Attention of packs, in few calls or group by group, is a softmax over ancestors, row by row."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.model.transformer import Transformer
from mistral_eval.native import pack_attention
from mistral_eval.native.pack import cut_packs
from mistral_eval.native.pack_attention import BatchedAttend, GroupwiseAttend, Stack, make_attend
from mistral_eval.native.pack_batches import Costs, cut_batches
from mistral_eval.native.plain import score_plain
from mistral_eval.native.requests import Counters, ScoreRequest, Turn
from mistral_eval.native.score_tree import score_tree
from mistral_eval.native.tree import build_tree

DIM = 8
words = st.lists(st.integers(0, 2), max_size=12).map(tuple)  # 3 words: much is shared
budgets = {"batch_tokens": st.integers(1, 60), "group_tokens": st.integers(1, 20)}
some_costs = st.builds(
    Costs,
    merge=st.integers(0, 6),
    call=st.sampled_from([0, 0, 20]),
    aligned=st.sampled_from([1, 4]),
    gathered=st.sampled_from([1, 50, 1000]),
    batch=st.sampled_from([0, 20, 1000]),
)


@st.composite
def some_trees(draw):
    """Prefixes of up to 30 tokens, questions behind them, and their endings."""
    roots = draw(st.lists(st.integers(0, 30).map(lambda n: (0,) * n), min_size=1, max_size=3))
    requests = [
        ScoreRequest((1, *root, *question), ending)
        for root in roots
        for question in draw(st.lists(words, min_size=1, max_size=5))
        for ending in draw(st.lists(words.filter(bool), min_size=1, max_size=3))
    ]
    return build_tree(requests)


def ancestors_of(tree):
    """For each token the tree's tokens on its path, itself the last."""
    path, found = [], []
    for node, depth in enumerate(tree.depths.tolist()):
        path = [*path[:depth], node]
        found.append(path)
    return found


def seen_by(tree, window):
    return [path[-(window or len(path)) :] for path in ancestors_of(tree)]


def random_tokens(tree, layers, heads):
    """What every token has in every layer, (U, Hq + 2 Hkv, D), in bfloat16's numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (layers, len(tree.tokens), heads[0] + 2 * heads[1], DIM)
    return torch.randn(shape, generator=generator).bfloat16().float()


def split(tokens, heads):
    """Queries, keys and values, as the transformer has them: side by side in one product."""
    return tokens.tensor_split((heads[0], heads[0] + heads[1]), dim=1)


def plain(seen, tokens, heads):
    """Softmax over the keys each token sees, one token and one head at a time."""
    q, k, v = split(tokens, heads)
    out = torch.empty_like(q)
    for node, keys in enumerate(seen):
        for head in range(heads[0]):
            shared = head // (heads[0] // heads[1])
            weights = (k[keys, shared] @ q[node, head] / DIM**0.5).softmax(dim=0)
            out[node, head] = weights @ v[keys, shared]
    return out


def walk(tree, packs, tokens, heads, windows, make):
    """What an `Attend` answers, pack after pack, layer after layer."""
    config = SimpleNamespace(
        n_layers=len(windows),
        n_heads=heads[0],
        n_kv_heads=heads[1],
        head_dim=DIM,
        sliding_window=windows,
    )
    model = SimpleNamespace(config=config, dtype=tokens.dtype, device=torch.device("cpu"))
    stack = Stack(model, tree.height, max(pack.last - pack.first for pack in packs))
    found = [[] for _ in windows]
    for pack in packs:
        attend = make(stack, pack)
        for layer, one in enumerate(tokens):
            found[layer].append(attend(layer, *split(one[pack.first : pack.last], heads)))
    return [torch.cat(answers) for answers in found]


@settings(max_examples=150)
@given(
    tree=some_trees(),
    costs=some_costs,
    heads=st.sampled_from([(6, 2), (4, 4), (3, 1)]),
    window=st.sampled_from([1, 5, 20]),
    **budgets,
)
def test_both_forms_give_the_softmax_over_each_tokens_ancestors(
    tree, costs, heads, window, batch_tokens, group_tokens
):
    """For every cut into packs and groups; with a window, without one, and with one too long."""
    windows = (None, window, 4096)
    packs = list(cut_packs(tree, batch_tokens, group_tokens))
    tokens = random_tokens(tree, len(windows), heads)
    expected = [plain(seen_by(tree, w), one, heads) for w, one in zip(windows, tokens, strict=True)]
    forms = (GroupwiseAttend, lambda stack, pack: BatchedAttend(stack, pack, costs))
    for make in forms:
        answers = walk(tree, packs, tokens, heads, windows, make)
        for found, wanted in zip(answers, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@settings(max_examples=100)
@given(
    tree=some_trees(),
    costs=some_costs,
    heads=st.sampled_from([(6, 2), (4, 4)]),
    window=st.sampled_from([None, 5, 20]),
    data=st.data(),
    **budgets,
)
def test_in_the_last_layer_rows_asked_for_attend_as_among_all(
    tree, costs, heads, window, data, batch_tokens, group_tokens
):
    """Some rows of each pack, none or all; later packs see the keys of the others all the same."""
    windows = (3, window)
    packs = list(cut_packs(tree, batch_tokens, group_tokens))
    total = len(tree.tokens)
    asked = sorted(data.draw(st.sets(st.integers(0, total - 1), max_size=total)))
    tokens = random_tokens(tree, len(windows), heads)
    expected = [plain(seen_by(tree, w), one, heads) for w, one in zip(windows, tokens, strict=True)]

    def rows_of(pack):
        rows = [row - pack.first for row in asked if pack.first <= row < pack.last]
        return np.array(rows, dtype=np.int64)

    forms = (
        lambda stack, pack: GroupwiseAttend(stack, pack, rows_of(pack)),
        lambda stack, pack: BatchedAttend(stack, pack, costs, rows_of(pack)),
    )
    for make in forms:
        first, last = walk(tree, packs, tokens, heads, windows, make)
        torch.testing.assert_close(first, expected[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(last[asked], expected[1][asked], rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [GroupwiseAttend, make_attend])
def test_in_the_last_layer_no_others_attend(make, monkeypatch):
    """Counted where attention is computed: five shots, and one token asked of each question."""
    shots = tuple(n % 3 for n in range(200))
    tree = build_tree([ScoreRequest((*shots, n, *range(30)), (4,)) for n in range(10)])
    [pack] = cut_packs(tree, 4096, 64)
    heads, queries = (4, 2), []
    kernel, attention = pack_attention._KERNEL, pack_attention.attention

    def counting(q, *more, **named):
        queries[-1] += q.shape[0] * q.shape[2]  # of both key heads
        return kernel(q, *more, **named)

    def counting_groups(q, *more):
        queries[-1] += 2 * len(q)  # as many query heads share a key head
        return attention(q, *more)

    monkeypatch.setattr(pack_attention, "_KERNEL", counting)
    monkeypatch.setattr(pack_attention, "attention", counting_groups)
    tokens = random_tokens(tree, 2, heads)
    for asked in (None, tree.asked_rows(0, len(tree.tokens))):
        queries.append(0)
        walk(tree, [pack], tokens, heads, (None, None), lambda s, p, a=asked: make(s, p, a))
    whole, some = queries
    assert whole >= 2 * 2 * len(tree.tokens)
    assert some <= whole // 2 + 2 * 2 * 10 * 2  # a prefix and a rest for each


def test_in_bfloat16_merged_parts_are_as_near_as_one_softmax():
    """Each part is rounded, and so is their mixture."""
    shots = tuple(n % 3 for n in range(200))
    tree = build_tree([ScoreRequest((*shots, n, *range(30)), (4,)) for n in range(30)])
    packs = list(cut_packs(tree, 4096, 64))
    heads = (6, 2)
    tokens = random_tokens(tree, 1, heads)
    exact = plain(seen_by(tree, None), tokens[0], heads)
    merged, whole = (
        (walk(tree, packs, tokens.bfloat16(), heads, (None,), make)[0].float() - exact).abs().mean()
        for make in (make_attend, GroupwiseAttend)
    )

    assert cut_batches(packs[0], None)[0], "there should be parts to merge"
    assert merged < 1.4 * whole


@given(tree=some_trees(), costs=some_costs, window=st.sampled_from([None, 1, 5, 20]), **budgets)
def test_prefix_and_batch_hold_what_a_row_sees_and_nothing_twice(
    tree, costs, window, batch_tokens, group_tokens
):
    seen = seen_by(tree, window)
    paths = ancestors_of(tree)
    for pack in cut_packs(tree, batch_tokens, group_tokens):
        slots = [*paths[pack.first][:-1], *range(pack.first, pack.last)]  # the tokens in them
        blocks, batches = cut_batches(pack, window, costs)
        prefix = {row: block.slots for block in blocks for row in block.rows.tolist()}
        rows = np.concatenate([batch.rows[batch.is_row] for batch in batches])

        assert sorted(rows.tolist()) == list(range(pack.last - pack.first))
        assert all(block.slots.size > costs.merge for block in blocks)
        for batch in batches:
            groups, keys = batch.slots.shape
            assert keys % costs.aligned == 0
            assert groups == 1 or groups * keys <= costs.gathered
            assert batch.seen.any(axis=2).all(), "a row that sees nothing has no softmax"
            for group, at in np.argwhere(batch.is_row).tolist():
                row = batch.rows[group, at]
                own = batch.slots[group][batch.seen[group, at]].tolist()
                held = [slots[slot] for slot in [*prefix.get(row, ()), *own]]
                assert held == seen[pack.first + row]


def test_a_prefix_of_many_questions_is_attended_to_without_a_mask():
    """Five shots and short questions, as MMLU has them; the mask is for what is behind."""
    shots = tuple(n % 50 for n in range(300))
    requests = [ScoreRequest((*shots, 60 + n, *range(n, n + 40)), (3,)) for n in range(40)]
    tree = build_tree(requests)
    (pack,) = cut_packs(tree, 4096, 64)
    blocks, batches = cut_batches(pack, 4096)

    # the first question's first 20 tokens go with the shots, in runs of 64
    assert [len(block.slots) for block in blocks] == [288]
    assert blocks[0].rows.tolist() == list(range(320, 300 + 41 * 40))
    assert len(tree.tokens) == 300 + 41 * 40
    behind = [
        slots[seen.any(axis=0)]
        for batch in batches
        for rows, slots, seen in zip(batch.rows, batch.slots, batch.seen, strict=True)
        if rows.min() >= 320
    ]
    assert len(behind) == 39
    # a group begins with the first question's last 21 tokens and sees its first 20: 62 rows in all
    assert max(len(slots) for slots in behind) == (300 - 288) + 20 + 62


def test_a_walk_with_prefixes_scores_as_the_plain_scorer_whatever_is_known(
    make_engine, make_weights
):
    """Behind 300 shared tokens; half of the replies known, each a different half."""
    config = replace(make_engine().model.config, context_len=512, sliding_window=(None, 400))
    model = Transformer(config, make_weights(config), 61)
    shots = tuple(3 + n * n % 50 for n in range(300))
    requests = [
        ScoreRequest((*shots, 3 + n, *(3 + (n * m) % 40 for m in range(n % 13))), (5, 3 + n % 9))
        for n in range(50)
    ]
    packs = list(cut_packs(build_tree(requests), 256, 64))
    plain_scores = dict(score_plain(model, requests, 1000))
    scores = dict(score_tree(model, requests, 256, Counters(), 64))

    assert sum(bool(cut_batches(pack, 400)[0]) for pack in packs) == len(packs) - 1 > 1
    for n, reply in plain_scores.items():
        assert scores[n].logprob == pytest.approx(reply.logprob, abs=1e-4)
        assert scores[n].is_greedy == reply.is_greedy
    for known in (set(range(0, 50, 2)), set(range(25)), set(range(25, 50))):
        again = dict(score_tree(model, requests, 256, Counters(), 64, turn=Turn(known)))
        assert again == {n: reply for n, reply in scores.items() if n not in known}


def test_where_the_window_hides_the_prefix_there_is_none():
    shots = tuple(n % 50 for n in range(300))
    tree = build_tree([ScoreRequest((*shots, 60 + n), (3, 4)) for n in range(40)])
    (pack,) = cut_packs(tree, 4096, 64)

    assert cut_batches(pack, tree.height)[0]
    assert not cut_batches(pack, tree.height - 1)[0]


def test_groups_without_a_long_prefix_cost_no_call_of_their_own():
    """Zero-shot questions: what a call costs is more than it spares."""
    tree = build_tree([ScoreRequest((1, n, *range(30)), (4,)) for n in range(50)])
    (pack,) = cut_packs(tree, 4096, 64)
    blocks, batches = cut_batches(pack, None)

    assert blocks == []
    assert len(batches) == 1


def spent(batches, costs):
    """What the costs say of batches."""
    return sum(
        batch.rows.size * (costs.row + batch.slots.shape[1]) + costs.batch for batch in batches
    )


@pytest.mark.parametrize(("batch", "count"), [(0, None), (1000, None), (10**9, 1)])
def test_padding_and_calls_together_cost_least(batch, count):
    """Dear calls make one batch of all; free ones none that another cut would better."""
    tree = build_tree([ScoreRequest((n, *range(10 * n)), (4,)) for n in range(1, 25)])
    (pack,) = cut_packs(tree, 4096, 300)
    costs = Costs(batch=batch, aligned=1, gathered=1 << 20)
    found = cut_batches(pack, None, costs)[1]
    others = [
        cut_batches(pack, None, replace(costs, batch=other))[1] for other in (0, 100, 5000, 10**9)
    ]

    assert count in (None, len(found))
    assert spent(found, costs) <= min(spent(some, costs) for some in others)


def test_a_batch_gathers_no_more_keys_than_it_may():
    tree = build_tree([ScoreRequest((n, *range(50)), (4,)) for n in range(30)])
    (pack,) = cut_packs(tree, 4096, 64)
    batches = cut_batches(pack, None, Costs(gathered=200, batch=10**9))[1]

    assert max(batch.slots.size for batch in batches) <= 200
    assert sum(batch.is_row.sum() for batch in batches) == len(tree.tokens)
