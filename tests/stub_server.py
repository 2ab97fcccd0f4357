"""A completions server over real sockets with a real distribution behind it, and its quirks.

`Quirks()` is a well-behaved server with vLLM's fields. Each quirk is something that a real server
was seen to do. Faults (broken connections, statuses, delays) are chosen per request.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, Self

import numpy as np
import torch

from mistral_eval.engines.native import NativeEngine
from mistral_eval.engines.native_encoder import watch_stops
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.model.tokenizers.tokenizer import Tokenizer
from mistral_eval.native.requests import GenerateRequest, Sampling
from tests.pairs import our_logits

KNOWN = {
    *("model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs"),
    *("echo", "n", "best_of", "presence_penalty", "frequency_penalty", "user", "stream"),
}


def body(number: int = 0) -> dict[str, Any]:
    """Return a request for one token; each number is another prompt."""
    return {"model": "tiny", "prompt": [1, 400 + number], "max_tokens": 1, "temperature": 0.0}


class Model(Protocol):
    """What computes: next-token log-probabilities, and replies."""

    tokenizer: Tokenizer

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities after each id, (T, words)."""

    def generate(
        self,
        ids: Sequence[int],
        limit: int,
        sampling: Sampling,
        seed: int,
        stop: Sequence[str],
        among: Sequence[int] = (),
    ) -> tuple[list[int], str]:
        """New ids without EOS, and why they end: "eos", "stop" or "length".

        The first one is one of `among`, unless that is empty.
        """


class NativeModel:
    """The weights of a native engine."""

    def __init__(self, engine: NativeEngine) -> None:
        self.tokenizer = engine.tokenizer
        self._runner = engine.runner
        self._lock = threading.Lock()

    def logprobs(self, ids):
        with self._lock, torch.inference_mode():
            logits = our_logits(self._runner.model, torch.tensor(list(ids)))
            return torch.log_softmax(logits.double(), -1).numpy()

    def generate(self, ids, limit, sampling, seed, stop, among=()):
        watch = watch_stops(stop, self.tokenizer, ids) if stop else None
        request = GenerateRequest(tuple(ids), limit, sampling, str(seed), watch, tuple(among))
        with self._lock:
            ((_, reply),) = self._runner.generate([request])
        return list(reply.ids), reply.finish


class BigramModel:
    """A made-up distribution that depends on the last two ids: exact, and quick without weights.

    All rows are one row of noise, rotated and stretched by the two ids; after one pair of 16 the
    reply is likely to end.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        words = tokenizer.n_words
        self._noise = np.tile(np.random.default_rng(0).standard_normal(words), 2)
        self._sums = {
            scale: float(np.log(np.exp(scale * self._noise[:words]).sum())) for scale in (2, 3)
        }

    def _next(self, ids: Sequence[int]) -> np.ndarray:
        words = self.tokenizer.n_words
        last = (ids[-2] if len(ids) > 1 else 0, ids[-1])
        start = (last[0] * 7919 + last[1] * 104729) % words
        scale = 2 + sum(last) % 2
        row = scale * self._noise[start : start + words] - self._sums[scale]
        if start % 16 == 0:
            end = self.tokenizer.eos_id
            row[end] = np.log(np.exp(row[end]) + 0.9)
            row -= np.log(1.9)
        return row

    def logprobs(self, ids):
        return np.stack([self._next(ids[: n + 1]) for n in range(len(ids))])

    def generate(self, ids, limit, sampling, seed, stop, among=()):
        noise = np.random.default_rng(seed)
        watch = watch_stops(stop, self.tokenizer, ids) if stop else None
        new: list[int] = []
        while len(new) < limit:
            scores = self._next([*ids, *new])
            if sampling.temperature:
                scores = scores / sampling.temperature + noise.gumbel(size=len(scores))
            token = int(scores.argmax())
            if among and not new:
                token = max(among, key=scores.__getitem__)
            if token in self.tokenizer.eos_ids:
                return new, "eos"
            new.append(token)
            if watch and watch(new):
                return new, "stop"
        return new, "length"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    said: str = "made to fail"
    delay: float = 0.0
    drop: bool = False  # close the connection without a reply
    truncate: bool = False  # half of the JSON
    change: Callable[[dict[str, Any]], Any] | None = None  # of the reply, with status 200


@dataclass(frozen=True)
class Quirks:
    """What a server does; the defaults are vLLM's."""

    names: tuple[str, ...] = ("tiny",)
    root: str | None = None
    lists: bool = True  # else /models fails
    pages: Mapping[str, Any] = field(default_factory=dict)  # further ones, by path
    any_name: bool = False
    answers_as: str | None = None
    max_model_len: int | None = 2048
    key: str = ""
    takes_ids: bool = True
    bos_before_ids: bool = False
    bos_before_text: bool = True
    reads_bos: bool = True  # "<s>" in a text is BOS
    counts: bool = True
    strict: bool = False
    penalises: bool = False  # repetitions, unless `repeat_penalty` is 1
    refused_top_k: int | None = None
    refuses_greedy: bool = True  # a refused top_k with temperature 0 too
    echo: bool = True
    prompt_logprobs: bool = True
    shift: int = 0  # echoed values stand that many places further on
    behind: bool = False  # the value of a token is that after the token itself
    drops_bos: bool = False
    drops_generated: bool = False
    choices: bool = True
    ids: str = "token_ids"  # or "names", "content" (llama.cpp's form) or "none"
    max_stops: int = 4
    stops: str = "honoured"  # or "kept" or "ignored"
    temperature: bool = True
    seeds: bool = True
    among: bool = True  # `allowed_token_ids`
    first_space: bool = True
    tops: str = "given"  # of an echo: or "missing", or "own" (each token beside itself alone)
    reads: int | None = None  # the end of a prompt that is read; the rest is cut without a word
    writes: int | None = None  # new tokens at most, whatever was asked
    finish: str = ""  # how replies end, whatever ended them


class Stub:
    """A server on the loopback interface; a context manager.

    Attributes:
        asked: the bodies of all requests to /completions, in the order of their arrival.
        answered: the bodies of those that got a whole reply with status 200.
        now, most: the number of requests at this time, and the largest one so far.
    """

    def __init__(
        self,
        model: Model,
        quirks: Quirks = Quirks(),
        fault: Callable[[int, dict[str, Any]], Fault | None] = lambda number, body: None,
        port: int = 0,
        certificate: str | None = None,
    ) -> None:
        self.model, self.quirks, self.fault = model, quirks, fault
        self.asked: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.most = self.now = 0
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", port), self)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.crash()

    def crash(self) -> None:
        """End at once: every connection is cut."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self._lock:
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.add(connection)

    def began(self, body: dict[str, Any]) -> Fault | None:
        with self._lock:
            self.asked.append(body)
            self.now += 1
            self.most = max(self.most, self.now)
            return self.fault(len(self.asked), body)

    def ended(self, body: dict[str, Any], *, well: bool) -> None:
        with self._lock:
            self.now -= 1
            if well:
                self.answered.append(body)

    def settled(self) -> list[dict[str, Any]]:
        """Return `answered` once no request is open: a client has a reply before it is counted."""
        end = time.monotonic() + 60
        while self.now:
            assert time.monotonic() < end, f"{self.now} requests are open after 60 s"
            time.sleep(0.01)
        return self.answered

    # ------------------------------------------------------------ replies

    def models(self) -> dict[str, Any]:
        rows = []
        for name in self.quirks.names:
            row: dict[str, Any] = {"id": name, "object": "model", "created": int(time.time())}
            if self.quirks.root:
                row["root"] = self.quirks.root
            if self.quirks.max_model_len and self.quirks.ids == "content":
                row["meta"] = {"n_ctx": self.quirks.max_model_len}
            elif self.quirks.max_model_len:
                row["max_model_len"] = self.quirks.max_model_len
            rows.append(row)
        return {"object": "list", "data": rows}

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        quirks = self.quirks
        if body.get("model") not in quirks.names and not quirks.any_name:
            return 404, _error(f"The model `{body.get('model')}` does not exist.")
        is_looked_at = quirks.refuses_greedy or body.get("temperature", 1.0) > 0
        is_refused = is_looked_at and body.get("top_k") == quirks.refused_top_k is not None
        unknown = {"top_k"} if is_refused else set()
        if refused := unknown or (body.keys() - KNOWN if quirks.strict else set()):
            return 400, _error(f"Unrecognized request argument: {min(refused)}")
        ids = self._prompt_ids(body["prompt"])
        if ids is None:
            return 400, _error("prompt must be a string")
        stop = body.get("stop") or []
        if len(stop) > quirks.max_stops:
            return 400, _error(f"stop: at most {quirks.max_stops} items")
        limit = body["max_tokens"]
        if quirks.max_model_len and len(ids) + limit > quirks.max_model_len:
            return 400, _error(
                f"This model's maximum context length is {quirks.max_model_len} tokens. However, "
                f"you requested {len(ids) + limit} tokens."
            )
        return 200, self._answer(body, ids, limit, stop)

    def _prompt_ids(self, prompt: str | list[int]) -> list[int] | None:
        tokenizer, quirks = self.model.tokenizer, self.quirks
        if isinstance(prompt, list):
            if not quirks.takes_ids:
                return None
            ids = [tokenizer.bos_id, *prompt] if quirks.bos_before_ids else list(prompt)
            return ids[-quirks.reads :] if quirks.reads else ids
        has_bos = quirks.reads_bos and prompt.startswith("<s>")
        ids = tokenizer.encode(prompt[3 * has_bos :], bos=has_bos)
        if quirks.bos_before_text and tokenizer.bos_id is not None:
            ids = [tokenizer.bos_id, *ids]
        return ids[-quirks.reads :] if quirks.reads else ids

    def _answer(self, body, ids, limit, stop) -> dict[str, Any]:
        quirks, tokenizer = self.quirks, self.model.tokenizer
        sampling = Sampling(
            body.get("temperature", 1.0) if quirks.temperature else 0.0,
            body.get("top_p", 1.0),
            max(0, body.get("top_k", 0)),
        )
        seed = body.get("seed") if quirks.seeds else None
        if seed is None:
            seed = time.perf_counter_ns() % (1 << 31)
        limit = min(limit, quirks.writes or limit)
        heeded = stop if quirks.stops != "ignored" else []
        among = body.get("allowed_token_ids") if quirks.among else None
        is_other = quirks.penalises and body.get("repeat_penalty") != 1.0
        fed = ids[:-1] if is_other else ids  # other tokens become likely
        new, finish = self.model.generate(fed, limit, sampling, seed, heeded, among or ())
        text = continuation_text(tokenizer, ids, new)
        found = [text.index(one) for one in heeded if one in text]
        if found:
            kept = max(len(one) for one in heeded) if quirks.stops == "kept" else 0
            text = text[: min(found) + kept]
        if not quirks.first_space:
            text = text.removeprefix(" ")
        drawn = [*new, tokenizer.eos_id] if finish == "eos" else new
        choice: dict[str, Any] = {
            "index": 0,
            "text": text,
            "finish_reason": quirks.finish or ("length" if finish == "length" else "stop"),
            "stop_reason": heeded[0] if finish == "stop" else None,
            "logprobs": None,
        }
        if body.get("return_token_ids") and quirks.ids == "token_ids":
            choice["token_ids"] = drawn
        if body.get("logprobs") is not None and (text or quirks.ids != "content"):
            if quirks.ids == "content":  # without the tokens of the stop string
                drawn = _within(tokenizer, ids, drawn, text)
            choice["logprobs"] = self._logprobs(body, ids, drawn)
        if quirks.prompt_logprobs and body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = self._prompt_logprobs(ids)
        reply = {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": quirks.answers_as or body["model"],
            "choices": [choice],
        }
        if quirks.counts:
            reply["usage"] = {"prompt_tokens": len(ids), "completion_tokens": len(drawn)}
        return reply

    def _name(self, token: int, body: dict[str, Any]) -> str:
        as_id = body.get("return_tokens_as_token_ids") and self.quirks.ids in {"token_ids", "names"}
        return f"token_id:{token}" if as_id else self.model.tokenizer.decode([token])

    def _logprobs(self, body, ids, drawn) -> dict[str, Any]:
        """Values of the generated tokens, after those of the prompt where it is echoed."""
        quirks = self.quirks
        echoes = body.get("echo") and quirks.echo
        whole = [*ids, *drawn]
        table = self.model.logprobs(whole)
        first = 0 if echoes else len(ids)
        last = len(ids) if echoes and quirks.drops_generated else len(whole)
        tokens, values, tops = [], [], []
        for place in range(first, last):
            tokens.append(self._name(whole[place], body))
            if place == 0:
                values.append(None)
                tops.append(None)
                continue
            row = table[place if quirks.behind and place < len(ids) else place - 1]
            top = int(row.argmax())
            wanted = {whole[place]} if quirks.tops == "own" else {whole[place], top}
            if quirks.choices and place == len(ids):
                wanted |= set(body.get("logprob_token_ids") or ())
            values.append(float(row[whole[place]]))
            tops.append({self._name(one, body): float(row[one]) for one in wanted})
        if echoes and quirks.shift:
            values = _shifted(values, quirks.shift)
            tops = _shifted(tops, quirks.shift)
        if quirks.ids == "content":
            found = zip(whole[first:last], tokens, values, strict=True)
            return {"content": [{"id": a, "token": b, "logprob": c} for a, b, c in found]}
        skip = 1 if echoes and quirks.drops_bos and ids[0] == self.model.tokenizer.bos_id else 0
        return {
            "tokens": tokens[skip:],
            "token_logprobs": values[skip:],
            "top_logprobs": None if quirks.tops == "missing" else tops[skip:],
            "text_offset": [0] * len(tokens[skip:]),
        }

    def _prompt_logprobs(self, ids) -> list[dict[str, Any] | None]:
        table = self.model.logprobs(ids)
        entries: list[dict[str, Any] | None] = [None]
        for place in range(1, len(ids)):
            row = table[place - 1]
            wanted = {ids[place], int(row.argmax())}
            entries.append({str(one): {"logprob": float(row[one]), "rank": 1} for one in wanted})
        return entries


def _within(tokenizer: Tokenizer, ids: Sequence[int], drawn: list[int], text: str) -> list[int]:
    """The tokens of a reply that lie in its text, and an EOS after all of it."""
    while drawn and len(continuation_text(tokenizer, ids, drawn[:-1])) >= len(text):
        if drawn[-1] == tokenizer.eos_id:
            break
        drawn = drawn[:-1]
    return drawn


def _shifted(values: list[Any], by: int) -> list[Any]:
    """The values that many places further on; the list keeps its length."""
    if by > 0:
        return [*[None] * by, *values[:-by]]
    return [*values[-by:], *[None] * -by]


def _error(said: str) -> dict[str, Any]:
    return {"error": {"message": said, "type": "invalid_request_error", "code": 400}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], stub: Stub) -> None:
        self.stub = stub
        super().__init__(address, _Handler)

    def handle_error(self, request, client_address):
        """Say nothing: connections are cut on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    @property
    def stub(self) -> Stub:
        return self.server.stub

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stub.opened(self.connection)

    def do_GET(self) -> None:
        if not self._may():
            return
        if self.path == "/v1/models" and self.stub.quirks.lists:
            self._send(200, json.dumps(self.stub.models()).encode())
        elif self.path in self.stub.quirks.pages:
            self._send(200, json.dumps(self.stub.quirks.pages[self.path]).encode())
        else:
            self._send(404 if self.stub.quirks.lists else 500, b'{"detail":"Not Found"}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may():
            return
        if self.path != "/v1/completions":
            self._send(404, b'{"detail":"Not Found"}')
            return
        fault = self.stub.began(body)
        well = False
        try:
            well = self._complete(body, fault)
        finally:
            self.stub.ended(body, well=well)

    def _complete(self, body: dict[str, Any], fault: Fault | None) -> bool:
        fault = fault or Fault()
        time.sleep(fault.delay)
        if fault.drop:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return False
        if fault.status != 200:
            said = json.dumps(_error(fault.said)).encode()
            self._send(fault.status, said, fault.headers)
            return False
        status, reply = self.stub.complete(body)
        if fault.change:
            reply = fault.change(reply)
        content = json.dumps(reply).encode()
        self._send(status, content[: len(content) // 2] if fault.truncate else content)
        return status == 200 and not fault.truncate

    def _may(self) -> bool:
        key, given = self.stub.quirks.key, self.headers.get("Authorization", "")
        if not key or given == f"Bearer {key}":
            return True
        said = f"Incorrect API key: {given.removeprefix('Bearer ')}"
        self._send(401, json.dumps(_error(said)).encode())
        return False

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Write nothing."""
