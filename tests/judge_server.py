"""A chat endpoint over real sockets that rates as a function says, and fails where it says."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = tuple[int, Any] | None
"""A status and a JSON reply; None cuts the connection."""


def said(text: Any, model: str | None = "judge-1") -> Answer:
    """Return a chat completion with this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    reply = {"object": "chat.completion", "choices": [{**choice, "finish_reason": "stop"}]}
    return 200, reply if model is None else {**reply, "model": model}


class JudgeServer:
    """A server on the loopback interface; a context manager.

    Attributes:
        asked: the bodies of all requests, in the order of their arrival.
        keys: the Authorization headers.
    """

    def __init__(self, answer: Callable[[int, dict[str, Any]], Answer], delay: float = 0) -> None:
        self.answer, self.delay = answer, delay
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(judge: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with judge.lock:
                judge.asked.append(body)
                judge.keys.append(self.headers["Authorization"])
                number = len(judge.asked)
            time.sleep(judge.delay)
            found = (404, {}) if self.path != "/v1/chat/completions" else judge.answer(number, body)
            if found is None:
                self.close_connection = True
                return
            content = json.dumps(found[1]).encode()
            try:
                self.send_response(found[0])
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has given up
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
