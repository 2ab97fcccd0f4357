"""A cache of the hub for tests, and no network behind it."""

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pytest


@dataclass(frozen=True, slots=True)
class HubCache:
    """An empty cache folder that `fill` makes hold one model."""

    folder: Path
    name: str = "mistralai/Mistral-7B-v0.1"
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    shards: tuple[str, str] = (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    )

    def fill(self, names: Iterable[str]) -> Path:
        """The layout huggingface_hub keeps: refs/main -> commit, snapshots/<commit>/<files>."""
        repository = self.folder / f"models--{self.name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(self.commit)
        snapshot = repository / "snapshots" / self.commit
        snapshot.mkdir(parents=True)
        index = {"weight_map": dict(enumerate(self.shards))}
        for name in names:
            (snapshot / name).write_text(json.dumps(index if "index" in name else {}))
        return snapshot


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache; a socket that is opened fails the test."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return HubCache(folder)
