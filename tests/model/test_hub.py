"""A reference is a folder, a download, or one sentence that says what to do."""

import pytest
from huggingface_hub import errors
from huggingface_hub.hf_api import ModelInfo

from mistral_eval.errors import CheckpointError, HubError, ResourceError, UsageError
from mistral_eval.model.load import hub
from mistral_eval.model.load.hub import RemoteFile, files_to_fetch, resolve_model

NAME = "mistralai/Mistral-7B-v0.1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = "`--model tiny --data sample`."
pytestmark = pytest.mark.usefixtures("hub_cache")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def answer(monkeypatch, files, commit=COMMIT):
    """The hub's answer to model_info."""
    siblings = [{"rfilename": name, "size": size} for name, size in files.items()]
    info = ModelInfo(id=NAME, sha=commit, siblings=siblings, tags=[])
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_a, **_k: info)


def raising(error):
    def call(*_args, **_kwargs):
        raise error

    return call


def http_error(kind, status):
    """An exception as huggingface_hub raises it, of the HTTP library it is built on."""
    library = pytest.importorskip(errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0])
    request = library.Request("GET", "https://huggingface.co/api")
    return kind("no", response=library.Response(status, request=request))


FILES = {
    ".gitattributes": 1,
    "README.md": 1,
    "config.json": 600,
    "generation_config.json": 100,
    "model.safetensors.index.json": 25_000,
    SHARDS[0]: 10_000_000_000,
    SHARDS[1]: 4_500_000_000,
    "pytorch_model-00001-of-00002.bin": 10_000_000_000,
    "pytorch_model.bin.index.json": 24_000,
    "tokenizer.json": 1_800_000,
    "tokenizer.model": 493_443,
    "tokenizer_config.json": 1000,
    "special_tokens_map.json": 400,
    "original/consolidated.00.pth": 10_000_000_000,
}


def fetched(files):
    return [file.name for file in files_to_fetch(NAME, [RemoteFile(n, s) for n, s in files])]


def test_of_mistral_7b_v01_only_config_safetensors_and_tokenizer_are_fetched():
    assert fetched(FILES.items()) == [
        "config.json",
        "generation_config.json",
        *SHARDS,
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]


def test_of_both_formats_hugging_faces_alone_is_fetched():
    """The repository of v0.3 holds 14.5 GB of consolidated.safetensors beside its shards."""
    both = {**FILES, "consolidated.safetensors": 1, "params.json": 1, "tokenizer.model.v3": 1}

    assert set(fetched(both.items())) == {*fetched(FILES.items()), "tokenizer.model.v3"}


def test_a_raw_repository_is_fetched_as_it_is():
    raw = {"params.json": 1, "consolidated.safetensors": 1, "tekken.json": 1, "README.md": 1}

    assert fetched(raw.items()) == ["consolidated.safetensors", "params.json", "tekken.json"]


def test_a_repository_of_pickles_alone_is_sent_to_hf():
    with pytest.raises(CheckpointError, match=r"holds pytorch_model\*\.bin: run it with `--engin"):
        fetched({"config.json": 1, "pytorch_model.bin": 1}.items())


def test_an_existing_folder_is_taken_as_it_is(tmp_path):
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_folder_has_no_revisions(tmp_path):
    with pytest.raises(UsageError, match="--revision is for names on the hub"):
        resolve_model(str(tmp_path), revision="main")


@pytest.mark.parametrize("ref", ["mistral", "./missing", "/no/such/folder", "a/b/c"])
def test_what_is_neither_folder_nor_name_is_an_error(ref, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match="should be a folder, a GGUF file, a hub name such as"
    ):
        resolve_model(ref)


def test_the_size_is_said_before_the_download_and_only_the_needed_files_come(
    monkeypatch, hub_cache, tmp_path
):
    answer(monkeypatch, FILES)
    monkeypatch.setattr(
        hub.shutil, "disk_usage", lambda _p: hub.shutil._ntuple_diskusage(1, 0, 1 << 40)
    )
    events = []

    def download(name, *, revision, allow_patterns):
        events.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)

    assert resolve_model(NAME, revision="v1", say=events.append) == tmp_path
    assert events == [
        f"downloading {NAME}: 9 files, 13.51 GiB, into {hub_cache.folder}",
        (NAME, "v1", fetched(FILES.items())),
    ]


def test_what_the_cache_holds_is_neither_counted_nor_announced(monkeypatch, hub_cache, tmp_path):
    answer(monkeypatch, FILES)
    hub_cache.fill(fetched(FILES.items()))
    monkeypatch.setattr(hub, "snapshot_download", lambda *_a, **_k: str(tmp_path))
    said = []

    resolve_model(NAME, say=said.append)

    assert said == []


def test_a_full_disk_is_found_before_the_download(monkeypatch):
    answer(monkeypatch, FILES)
    monkeypatch.setattr(
        hub.shutil, "disk_usage", lambda _p: hub.shutil._ntuple_diskusage(1, 0, 1 << 30)
    )
    monkeypatch.setattr(hub, "snapshot_download", raising(AssertionError("downloaded")))

    with pytest.raises(ResourceError) as caught:
        resolve_model(NAME)
    assert f"{NAME} needs 13.51 GiB on disk and 1.00 GiB are free" in str(caught.value)
    assert str(caught.value).endswith(TINY)


@pytest.mark.parametrize(
    ("kind", "status", "sentence"),
    [
        (errors.GatedRepoError, 401, f"accept its terms on https://huggingface.co/{NAME}, then"),
        (errors.RepositoryNotFoundError, 404, "neither a local folder nor a model on the hub"),
        (errors.RevisionNotFoundError, 404, "has no revision v9"),
        (errors.HfHubHTTPError, 401, "the hub refused"),
        (errors.HfHubHTTPError, 429, "limits the rate of requests (429)"),
    ],
)
@pytest.mark.parametrize("where", ["asking", "downloading"])
def test_each_refusal_of_the_hub_is_a_sentence(monkeypatch, kind, status, sentence, where):
    error = http_error(kind, status)
    if where == "asking":
        monkeypatch.setattr(hub.HfApi, "model_info", raising(error))
    else:
        answer(monkeypatch, {"config.json": 1, "model.safetensors": 1})
        monkeypatch.setattr(hub, "snapshot_download", raising(error))

    with pytest.raises(HubError) as caught:
        resolve_model(NAME, revision="v9", say=lambda _text: None)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(TINY)
    assert "\n" not in str(caught.value)


def connection_error():
    """What the HTTP library under huggingface_hub raises without a network."""
    library = pytest.importorskip(errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0])
    return getattr(library, "ConnectError", None)("[Errno -2] Name or service not known")


@pytest.mark.parametrize("make", [connection_error, lambda: TimeoutError("late")])
def test_an_unreachable_hub_is_a_sentence(monkeypatch, make):
    monkeypatch.setattr(hub.HfApi, "model_info", raising(make()))

    with pytest.raises(HubError) as caught:
        resolve_model(NAME)
    assert f"the Hugging Face hub could not be reached for {NAME} (" in str(caught.value)
    assert str(caught.value).endswith(TINY)


def test_a_hub_in_trouble_is_a_sentence(monkeypatch):
    monkeypatch.setattr(hub.HfApi, "model_info", raising(http_error(errors.HfHubHTTPError, 503)))

    with pytest.raises(HubError, match="the hub answered 503"):
        resolve_model(NAME)


@pytest.mark.parametrize("make", [connection_error, lambda: http_error(errors.HfHubHTTPError, 502)])
def test_without_the_hub_a_complete_cache_is_used(monkeypatch, hub_cache, make):
    monkeypatch.setattr(hub.HfApi, "model_info", raising(make()))
    snapshot = hub_cache.fill(["config.json", "model.safetensors", "tokenizer.model"])

    assert resolve_model(NAME) == snapshot


def test_a_full_disk_in_the_middle_is_a_sentence(monkeypatch):
    answer(monkeypatch, {"config.json": 1, "model.safetensors": 1})
    monkeypatch.setattr(hub, "snapshot_download", raising(OSError(28, "No space left on device")))

    with pytest.raises(HubError, match="the disk filled up while"):
        resolve_model(NAME, say=lambda _text: None)


def test_a_cache_that_cannot_be_written_is_a_sentence(monkeypatch):
    answer(monkeypatch, {"config.json": 1, "model.safetensors": 1})
    monkeypatch.setattr(hub, "snapshot_download", raising(PermissionError(13, "denied", "/c")))

    with pytest.raises(HubError, match="set HF_HOME to a writable folder"):
        resolve_model(NAME, say=lambda _text: None)


def test_a_name_the_hub_cannot_have_is_a_sentence(monkeypatch):
    monkeypatch.setattr(hub.HfApi, "model_info", raising(errors.HFValidationError("two dots")))

    with pytest.raises(HubError, match="is not a valid name on the hub"):
        resolve_model("a..b/c")


def test_of_an_adapter_its_weights_are_fetched_and_no_whole_model():
    """Transformers ignores a whole model beside an adapter_config.json."""
    names = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "config.json"]
    remote = [RemoteFile(name, 1) for name in (*names, "model.safetensors", "optimizer.pt")]

    assert {file.name for file in files_to_fetch("a/b", remote)} == set(names)
