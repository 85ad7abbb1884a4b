"""A small real HTTP server that speaks as much of the OpenAI protocol as the engine uses.

At /completions it is vLLM: an option's log-probability is minus the option times the prompt's
length (modulo 100), as in test_engines_vllm.py. A test gives it another voice (``says``), and a
``hook`` that sees every request before it is answered.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self.reply(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.busy:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        try:
            self.server.asked.append(body)
            self.server.paths.append(self.path)
            self.server.keys.append(self.headers["Authorization"])
            status = self.server.hook(body)
            if status is None:
                self.cut(answer(body))
            elif status != 200:
                self.reply({"error": {"message": f"no: {status}"}}, int(str(status)[:3]))
            else:
                self.reply(self.server.says(body))
        finally:
            with self.server.busy:
                self.server.now -= 1

    def reply(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in self.server.headers.items() if status != 200 else ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def cut(self, content: Any) -> None:
        """Half an answer, and the connection is gone."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if self.server.chunked:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode()[:-5])
        self.close_connection = True

    def log_message(self, *_: object) -> None: ...


def answer(body: dict) -> dict:
    """What a vLLM server says to this request."""
    tokens, length = body["prompt"], len(body["prompt"])
    usage = {"prompt_tokens": length, "prompt_tokens_details": {"cached_tokens": 1}}
    if "logprob_token_ids" not in body:
        choice = {"text": f"seed {body['seed']}", "token_ids": [5, 6], "finish_reason": "stop"}
        return {"choices": [choice], "usage": usage | {"completion_tokens": 2}}
    options = body["logprob_token_ids"]
    rows = [
        {f"token_id:{o}": max(-9999.0, -float(o * (length % 100 + i))) for o in reversed(options)}
        | {"token_id:77": -0.001}  # the likeliest token, which is none of the options
        for i in range(body["max_tokens"])
    ]
    if 300 in tokens:
        rows[0].pop(f"token_id:{options[0]}")
    if 301 in tokens:
        rows[0] = {f"token_id:{o}": -9999.0 for o in options}
    choice = {"text": "", "finish_reason": "length", "logprobs": {"top_logprobs": rows}}
    return {"choices": [choice], "usage": usage | {"completion_tokens": len(rows)}}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.models: Any = {"data": [{"id": "some/model", "max_model_len": 64}]}
        self.headers: dict[str, str] = {}
        self.chunked = False
        self.hook: Callable[[dict], int | str | None] = lambda body: 200
        self.says: Callable[[dict], Any] = answer
        self.busy, self.now, self.most = threading.Lock(), 0, 0

    def handle_error(self, *_: object) -> None: ...

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextlib.contextmanager
def listening() -> Iterator[Server]:
    """A server that answers until the test ends."""
    made = Server()
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()
