"""Find the model at a server, by its list or by its name, and what the server tells of itself."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mistral_eval.engines.http_client import ServerError
from mistral_eval.engines.probe_asking import (
    TEXTS,
    Asker,
)
from mistral_eval.errors import EngineError

NO_NAME: Final = "a name that no model has"


async def identify(asker: Asker, model: str) -> None:
    """Find the model among those that the server lists, or by its name alone.

    transformers' server lists other models than the one it was started with, or fails to list.
    """
    url = asker.client.endpoint.url
    failed: EngineError | None = None
    listed: Any = {}
    try:
        listed = await asker.client.get("/models", retries=1)
    except ServerError as error:
        if error.status in (None, 401, 403):
            raise
        failed = error
    data = listed.get("data") if isinstance(listed, dict) else None
    rows = [one for one in data or () if isinstance(one, dict) and "id" in one]
    row = _row_of(rows, model)
    if row is None and await _answers_as(asker, model):
        row = {"id": model}
        asker.found.notes.append("the server does not list its model; it knows it by name")
    if row is None:
        names = ", ".join(sorted(str(one["id"]) for one in rows)[:5])
        raise failed or EngineError(
            f"The server at {url} serves {names or 'no model'}, and --model is {model}. Give "
            "the served name as --model, with `--model-args tokenizer=FOLDER`, or serve this "
            "model."
        )
    asker.learn(model=str(row["id"]))
    asker.found.context_len = _context_of(row)
    asker.found.info["listed"] = {
        name: row[name] for name in ("root", "owned_by", "max_model_len", "meta") if name in row
    }
    asker.found.version = await _version(asker)


async def _answers_as(asker: Asker, model: str) -> bool:
    """Return whether the server answers under this name and not under any name."""
    for name, is_wanted in ((model, True), (NO_NAME, False)):
        body = {"model": name, "prompt": TEXTS[0], "max_tokens": 1, "temperature": 0.0}
        try:
            await asker.client.post("/completions", body, retries=1)
        except ServerError as error:
            if error.status is None:
                raise
            if is_wanted:
                return False
        else:
            if not is_wanted:
                return False
    return True


async def _version(asker: Asker) -> str:
    """Return the program and its version, if it is vLLM or llama.cpp; else ""."""
    root = asker.client.endpoint.url.removesuffix("/v1")
    pages = {"version": ("vLLM", "version"), "props": ("llama.cpp", "build_info")}
    for page, (program, name) in pages.items():
        try:
            said = await asker.client.get(f"{root}/{page}", retries=0)
        except EngineError:  # there is no such page
            continue
        if isinstance(said, dict) and said.get(name):
            return f"{program} {said[name]}"
    return ""


def _row_of(rows: Sequence[Mapping[str, Any]], model: str) -> Mapping[str, Any] | None:
    """Return the listed model with this name, or made of this folder."""
    for row in rows:
        if model in (row["id"], row.get("root")):
            return row
    name = model.rstrip("/").rpartition("/")[2]
    folders = [row for row in rows if str(row["id"]).rpartition("/")[2] == name]
    return folders[0] if len(folders) == 1 and model.startswith("/") else None


def _context_of(row: Mapping[str, Any]) -> int | None:
    """Return the context in tokens that vLLM or llama.cpp lists; None if the server does not say.

    llama.cpp's `n_ctx` is that of one slot, which is what a request may fill.
    """
    meta = row.get("meta")
    length = row.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return length if isinstance(length, int) and length > 0 else None
