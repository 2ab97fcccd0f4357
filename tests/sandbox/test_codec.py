"""Plain data crosses unchanged and exact in type; whatever else comes is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.sandbox.guest.codec import Codec, FrameError, NotPlainError

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**4000, max_value=10**4400)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(alphabet=st.characters())  # surrogates too
    | st.binary()
)
HASHABLE = st.recursive(
    ATOMS, lambda s: st.tuples(s, s) | st.frozensets(s, max_size=3), max_leaves=5
)
VALUES = st.recursive(
    ATOMS | HASHABLE,
    lambda s: (
        st.lists(s, max_size=4)
        | st.dictionaries(HASHABLE, s, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.tuples(s, s)
    ),
    max_leaves=12,
)


def refuse(value):
    raise NotPlainError(type(value).__name__)


CODEC = Codec(refuse, refuse)


def crossed(value):
    message = CODEC.dump({"n": 1, "value": CODEC.encode(value)})
    return CODEC.load(message)["value"]


def same(left, right):
    """Equal, and of the same exact type at every place."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, dict):
        return [same(*pair) for pair in zip(left.items(), right.items(), strict=True)].count(
            False
        ) == 0
    if isinstance(left, (list, tuple)):
        return all(same(*pair) for pair in zip(left, right, strict=True))
    return True


@given(VALUES)
def test_a_plain_value_crosses_unchanged_and_exact_in_type(value):
    assert same(value, crossed(value))


def test_what_has_no_equality_crosses_too():
    assert repr(crossed(float("nan"))) == "nan"
    assert repr(crossed(-0.0)) == "-0.0"
    assert list(crossed(iter("ab"))) == ["a", "b"]
    assert list(crossed({"a": 1}.values())) == [1]


def test_two_lone_surrogates_stay_two():
    assert crossed("\ud83d\ude00") == "\ud83d\ude00"


@pytest.mark.parametrize("value", [object(), len, int, ..., Codec, NotImplemented, {1: object()}])
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(NotPlainError):
        CODEC.encode(value)


def test_a_long_iterator_is_refused():
    with pytest.raises(NotPlainError, match="more than"):
        CODEC.encode(iter(range(10**6 + 1)))


HOSTILE = [
    b"", b"x", b"\xff", b"1", b"[]", b'"x"', b"null", b"{", b"[" * 10**6,
    b'{"n":1,"value":{"object":1}}', b'{"n":1,"value":{"unknown":1}}',
    b'{"n":1,"value":{"tuple":1}}',
    b'{"n":1,"value":{"set":[[]]}}', b'{"n":1,"value":{"dict":[[1]]}}',
    b'{"n":1,"value":{"dict":[[[],1]]}}', b'{"n":1,"value":{"range":[1,2]}}',
    b'{"n":1,"value":{"range":[1,2,0]}}', b'{"n":1,"value":{"range":[1.0,2,3]}}',
    b'{"n":1,"value":{"complex":["a",1]}}', b'{"n":1,"value":{"int":"0xg"}}',
    b'{"n":1,"value":{"bytes":"f"}}', b'{"n":1,"value":' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:40]))
def test_what_is_no_message_is_refused(data):
    def no_object(body):
        raise ValueError(body)

    with pytest.raises(FrameError):
        Codec(refuse, no_object).load(data)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda s: st.lists(s, max_size=3)
    | st.dictionaries(
        st.sampled_from(["tuple", "set", "dict", "int", "object", "range", "n"]), s, max_size=3
    ),
    max_leaves=20,
))  # fmt: skip
def test_any_json_is_read_or_refused_and_gives_only_plain_types(tree):
    def no_object(body):
        raise ValueError(body)

    codec = Codec(refuse, no_object)
    try:
        value = codec.load(json.dumps(tree).encode())
    except FrameError:
        return
    codec.encode(value)  # raises NotPlainError if anything in it is not plain
