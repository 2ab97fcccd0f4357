"""With HF_HUB_OFFLINE no socket is opened: a complete cache is enough, a partial one a sentence."""

import huggingface_hub
import pytest

from mistral_eval.errors import HubError
from mistral_eval.model.load.hub import resolve_model

NAME = "mistralai/Mistral-7B-v0.1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = "`--model tiny --data sample`."
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
@pytest.mark.parametrize(
    "names",
    [
        ["config.json", "model.safetensors"],
        ["config.json", "model.safetensors.index.json", *SHARDS],
        ["params.json", "consolidated.safetensors"],
        ["params.json", "consolidated.00.pth"],
    ],
)
def test_offline_a_complete_cache_is_enough(hub_cache, names, revision):
    snapshot = hub_cache.fill(names)

    assert resolve_model(NAME, revision=revision) == snapshot


def test_offline_another_revision_is_not_taken_for_the_cached_one(hub_cache):
    hub_cache.fill(["config.json", "model.safetensors"])

    with pytest.raises(HubError, match=f"holds no copy of {NAME} at v2: go online once"):
        resolve_model(NAME, revision="v2")


def test_offline_an_empty_cache_is_a_sentence(hub_cache):
    with pytest.raises(HubError) as caught:
        resolve_model(NAME)

    assert str(caught.value) == (
        f"HF_HUB_OFFLINE is set and the cache {hub_cache.folder} holds no copy of {NAME}: "
        f"go online once, give a folder, or try {TINY}"
    )


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (["config.json", "tokenizer.model"], "model.safetensors"),
        (["config.json", "model.safetensors.index.json", SHARDS[0]], SHARDS[1]),
    ],
)
def test_offline_an_interrupted_download_names_what_is_missing(hub_cache, names, lacking):
    hub_cache.fill(names)

    with pytest.raises(HubError, match=f"lacks {lacking}, and the hub was not asked"):
        resolve_model(NAME)
