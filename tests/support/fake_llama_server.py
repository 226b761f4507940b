"""Stands in for llama.cpp's server in tests of its process: its arguments, its key, its protocol, made-up tokens.

    python fake_llama_server.py --alias served --port P ...

`FAKE_ENGINE` holds JSON: `start_s` before it listens, `dies` with a status instead, `is_never_healthy`, `token_s`
between two tokens, `end_after` tokens (its end token is 256), and `notes`, a file that gets a line of JSON for each
request and for each connection that was left. Token n after a prompt of p tokens is (p + n) % 200.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OPTIONS: dict[str, Any] = json.loads(os.environ.get("FAKE_ENGINE", "{}"))
KEY = os.environ["LLAMA_API_KEY"]
END_ID = 256


def note(**values: Any) -> None:
    if OPTIONS.get("notes"):
        with open(OPTIONS["notes"], "a") as file:
            file.write(json.dumps(values) + "\n")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if OPTIONS.get("is_never_healthy") else 200)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}" or self.path != "/completion":
            self.send_response(401)
            self.end_headers()
            return
        note(pid=os.getpid(), **{name: value for name, value in body.items() if name != "prompt"})
        self.send_response(200)
        self.end_headers()
        length = len(body["prompt"])
        is_banned = any(token == END_ID and bias < 0 for token, bias in body["logit_bias"])
        try:
            self._tell(tokens=[0], prompt_progress={"total": length, "cache": int(body["cache_prompt"])})
            for index in range(body["n_predict"]):
                time.sleep(OPTIONS.get("token_s", 0))
                is_end = not is_banned and length + index == OPTIONS.get("end_after")
                token = END_ID if is_end else (length + index) % 200
                self._tell(tokens=[token], completion_probabilities=[_scored(token)] if body["n_probs"] else [])
                if is_end:
                    break
            self._tell(tokens=[], stop=True)
        except OSError:
            note(left=True)

    def _tell(self, **values: Any) -> None:
        self.wfile.write(f"data: {json.dumps(values)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


def _scored(token: int) -> dict[str, Any]:
    return {"id": token, "logprob": -0.5, "top_logprobs": [{"id": token, "logprob": -0.5}, {"id": 7, "logprob": -1.5}]}


if __name__ == "__main__":
    note(pid=os.getpid(), arguments=sys.argv[1:])
    time.sleep(OPTIONS.get("start_s", 0))
    if "dies" in OPTIONS:
        sys.exit(OPTIONS["dies"])
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
