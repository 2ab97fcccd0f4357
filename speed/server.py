"""What a request costs the server engine, against a server that answers at once.

    python speed/server.py [--requests N] [--libraries]

The server is a second process that reads a request's length and writes one prepared reply. Each
request is a prompt of 200 ids and a reply of 40 ids, which the engine decodes, or a score of three
choices. `--libraries` measures HTTP libraries alone, those that are installed, with the same
prompts. Figures are requests per second of processor time of the asking process (all its threads),
and per second of wall time; then the process's memory after a tenth of the requests and after all.
Prints one line a figure, and last one JSON document.
"""

import argparse
import asyncio
import importlib
import json
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import machine

from mistral_eval.engines.chat_ids import ChatIds
from mistral_eval.engines.endpoint import Endpoint
from mistral_eval.engines.interface import Encoded, EngineIdentity, GenerationSettings, Request
from mistral_eval.engines.probe_asking import Found
from mistral_eval.engines.server import ServerEngine
from mistral_eval.engines.server_args import BOS_TEXT, LocalModel, ServerArgs
from mistral_eval.engines.server_body import Traits
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.special import TokenizerArgs
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, load_tokenizer
from mistral_eval.native.requests import GenerateRequest, ScoreRequest

IN_FLIGHT = 32
PROMPT = (1, *range(1000, 1199))
REPLY = list(range(2000, 2040))
CHOICES = (330, 365, 334)
LIBRARIES = ("httpx", "httpx2", "aiohttp")
TRAITS = Traits("m", takes_ids=True, bos="sent", extras=True, ids="token_ids", choices=True)


def reply_bytes(kind: str) -> bytes:
    """Return a whole HTTP reply to a request of this kind."""
    names = [f"token_id:{one}" for one in CHOICES]
    values = dict.fromkeys(names, -1.5)
    logprobs = {"tokens": names[:1], "token_logprobs": [-1.5], "top_logprobs": [values]}
    choice: dict[str, Any] = {"index": 0, "text": " word" * 40, "finish_reason": "length"}
    choice |= {"logprobs": logprobs} if kind == "score" else {"token_ids": REPLY}
    body = json.dumps({"id": "x", "model": "m", "choices": [choice]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


class Instant(asyncio.Protocol):
    """Reads requests by their length and answers each with the same bytes."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._left = bytearray()

    def connection_made(self, transport: Any) -> None:
        """Keep the connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._left += data
        while (end := self._left.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._left[:end]).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self._left) < end + 4 + length:
                return
            del self._left[: end + 4 + length]
            self._transport.write(self._reply)


def serve(kind: str, port: Any) -> None:
    """Answer on a free port until the process is ended."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Instant(reply_bytes(kind)), "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def server(kind: str) -> Iterator[str]:
    """Start the server; yield its base URL."""
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    process = context.Process(target=serve, args=(kind, port), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port.value}/v1"
    finally:
        process.terminate()
        process.join()


def resident() -> float:
    """Return the process's memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def encoded(kind: str, count: int) -> list[Encoded]:
    """Return requests that share one prompt."""
    if kind == "score":
        work = [ScoreRequest(PROMPT, (one,)) for one in CHOICES]
        asks = [Request("b", 0, n, 0, "score", "", "") for n in range(len(CHOICES))]
        made = [Encoded(ask, (), one) for ask, one in zip(asks, work, strict=True)]
        # a context of its own for each question, so that it is a request of its own
        return [
            Encoded(one.request, (), ScoreRequest((*PROMPT[:-1], number), one.work.continuation))
            for number in range(count)
            for one in made
        ]
    settings = GenerationSettings(("\n\n",), len(REPLY), 0.6, 0.95)
    ask = Request("b", 0, 0, 0, "generate", "a prompt", "", settings)
    return [Encoded(ask, (), GenerateRequest(PROMPT, len(REPLY)))] * count


def engine(url: str) -> ServerEngine:
    """Return an engine that does not probe."""
    tokenizer = load_tokenizer(
        tiny_tokenizer_file(), expected_vocab=ANY_VOCAB, args=TokenizerArgs()
    )
    args = ServerArgs(Endpoint(url, in_flight=IN_FLIGHT), None, TokenizerArgs())
    place = tiny_tokenizer_file()
    local = LocalModel(tokenizer, None, BOS_TEXT, ChatIds(tokenizer, "auto", place, place))
    return ServerEngine(args, Found(TRAITS), local, 4096, 0, EngineIdentity("server"))


def measure_engine(kind: str, count: int) -> dict[str, float]:
    """Ask `count` requests; return the rates, and memory after a tenth and after all of them."""
    with server(kind) as url:
        asker, asks = engine(url), encoded(kind, count)
        list(asker.answer(asks[:300]))
        tenth, began, cpu = 0.0, time.monotonic(), time.process_time()
        for seen, _ in enumerate(asker.answer(asks)):
            if seen == len(asks) // 10:
                tenth = resident()
        cpu, wall = time.process_time() - cpu, time.monotonic() - began
    return {
        "per_cpu_second": round(count / cpu),
        "per_second": round(count / wall),
        "mib_after_a_tenth": round(tenth, 1),
        "mib_after_all": round(resident(), 1),
    }


def measure_library(name: str, count: int) -> dict[str, float]:
    """Post the same body with an HTTP library alone."""
    module = importlib.import_module(name)
    body = json.dumps({"model": "m", "prompt": PROMPT, "max_tokens": 512}).encode()
    with server("generate") as url:
        cpu, wall = asyncio.run(_library(module, f"{url}/completions", body, count))
    return {"per_cpu_second": round(count / cpu), "per_second": round(count / wall)}


async def _library(module: Any, url: str, body: bytes, count: int) -> tuple[float, float]:
    headers = {"Content-Type": "application/json"}
    if hasattr(module, "ClientSession"):
        async with module.ClientSession(headers=headers) as session:

            async def post() -> bytes:
                async with session.post(url, data=body) as reply:
                    return await reply.read()

            return await _repeat(post, count)
    async with module.AsyncClient(headers=headers) as client:

        async def send() -> bytes:
            return (await client.post(url, content=body)).content

        return await _repeat(send, count)


async def _repeat(post: Callable[[], Awaitable[bytes]], count: int) -> tuple[float, float]:
    numbers = iter(range(count))

    async def work() -> None:
        for _ in numbers:
            json.loads(await post())

    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return time.process_time() - cpu, time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--libraries", action="store_true")
    options = parser.parse_args()
    print(machine())
    found: dict[str, Any] = {"machine": machine(), "requests": options.requests}
    for kind in ("generate", "score"):
        found[kind] = measure_engine(kind, options.requests)
        print(f"engine, {kind}: {found[kind]}")
    for name in LIBRARIES if options.libraries else ():
        found[name] = measure_library(name, 3000)
        print(f"{name} alone: {found[name]}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
