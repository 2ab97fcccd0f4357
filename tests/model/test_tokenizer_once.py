"""Folders with copies of one tokenizer share it; any file that decides makes another."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from mistral_eval.model.export import save_tokenizer
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, READ, load_tokenizer

DECIDING = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("config.json", "generation_config.json"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tiny_tokenizer_file(), place)
    for name in DECIDING:
        if not (place / name).exists():
            (place / name).write_text("{}")
    return place


def test_every_file_that_is_read_decides_whether_a_tokenizer_is_shared(folder, tmp_path):
    """Whatever loading opens in the folder is among the files that are compared."""
    place = shutil.copytree(folder, tmp_path / "copy")
    (place / "added_tokens.json").write_text('{"<x>": 3}')  # no other folder has these files
    opened: set[str] = set()
    watching = True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).startswith(str(place)):
            opened.add(Path(str(arguments[0])).name)

    sys.addaudithook(note)
    load_tokenizer(place, expected_vocab=ANY_VOCAB)
    watching = False
    assert opened >= {"tokenizer_config.json", "added_tokens.json"}
    assert [name for name in opened if not READ.fullmatch(name)] == []


def test_copies_share_one_tokenizer_and_an_original_that_changes_does_not(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "trainer_state.json").write_text('{"global_step": 7}')
    first, second = (load_tokenizer(one, expected_vocab=ANY_VOCAB) for one in (folder, copy))
    assert second.processor is first.processor
    for name in (*DECIDING, "tokenizer.json"):
        content = json.loads((folder / name).read_text())
        (copy / name).write_text(json.dumps(content, indent=3) + "\n")
        other = load_tokenizer(copy, expected_vocab=ANY_VOCAB)
        assert other.processor is not first.processor, name
        assert other.fingerprint == first.fingerprint
        shutil.copyfile(folder / name, copy / name)
