"""Stands in for llama.cpp's, vLLM's and SGLang's servers in tests: arguments, key, protocols, made-up tokens.

    python fake_engine_server.py ... --port P ...

`FAKE_ENGINE` holds JSON: `start_s` before it listens, `dies` with a status instead, `is_never_healthy`, `token_s`
between two tokens, `end_after` tokens (its end token is 256), `breaks_after` tokens (an error in the stream, and
unhealthy from then on), and `notes`, a file that gets a line of JSON for the start, for each request and for each
connection that was left. Token n after a prompt of p tokens is (p + n) % 200. As vLLM's, it has a process of its own
for the engine, whose id is in its first note.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OPTIONS: dict[str, Any] = json.loads(os.environ.get("FAKE_ENGINE", "{}"))
KEYS = {name: value for name, value in os.environ.items() if name in ("LLAMA_API_KEY", "VLLM_API_KEY")}
if "--config" in sys.argv:
    KEYS["SGLang"] = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())["api-key"]
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
        name, complete = {
            "/completion": ("LLAMA_API_KEY", self._complete),
            "/v1/completions": ("VLLM_API_KEY", self._complete_as_vllm),
            "/generate": ("SGLang", self._complete_as_sglang),
        }[self.path]
        if self.headers["Authorization"] != f"Bearer {KEYS.get(name)}":
            self.send_response(401)
            self.end_headers()
            return
        note(
            pid=os.getpid(), asked={name: value for name, value in body.items() if name not in ("prompt", "input_ids")}
        )
        self.send_response(200)
        self.end_headers()
        try:
            complete(body)
        except OSError:
            note(left=True)

    def _complete(self, body: dict[str, Any]) -> None:
        length = len(body["prompt"])
        is_banned = any(token == END_ID and bias < 0 for token, bias in body["logit_bias"])
        self._tell(tokens=[0], prompt_progress={"total": length, "cache": int(body["cache_prompt"])})
        for index in range(body["n_predict"]):
            if self._breaks(index):
                return
            is_end = not is_banned and length + index == OPTIONS.get("end_after")
            token = END_ID if is_end else (length + index) % 200
            self._tell(tokens=[token], completion_probabilities=[_scored(token)] if body["n_probs"] else [])
            if is_end:
                break
        self._tell(tokens=[], stop=True)

    def _complete_as_vllm(self, body: dict[str, Any]) -> None:
        length, ends = len(body["prompt"]), body["stop_token_ids"]
        self._tell(choices=[{"text": "", "token_ids": []}])
        for index in range(body["max_tokens"]):
            if self._breaks(index):
                return
            is_end = length + index == OPTIONS.get("end_after") and (END_ID not in ends or index >= body["min_tokens"])
            token = END_ID if is_end else (length + index) % 200
            choice: dict[str, Any] = {"text": "?", "token_ids": [token]}
            if body["logprobs"] is not None:
                named = f"token_id:{token}"
                top = {named: -1.5, "token_id:7": -0.5}  # the chosen one first, whatever its rank
                choice["logprobs"] = {"tokens": [named], "token_logprobs": [-1.5], "top_logprobs": [top]}
            self._tell(choices=[choice])
            if token in ends:
                break
        self.wfile.write(b"data: [DONE]\n\n")

    def _complete_as_sglang(self, body: dict[str, Any]) -> None:
        sampling, length = body["sampling_params"], len(body["input_ids"])
        ends = () if sampling["ignore_eos"] else {END_ID, *sampling["stop_token_ids"]}
        for index in range(sampling["max_new_tokens"]):
            if self._breaks(index):
                return
            is_end = length + index == OPTIONS.get("end_after") and (not ends or index >= sampling["min_new_tokens"])
            token = END_ID if is_end else (length + index) % 200
            about: dict[str, Any] = {"finish_reason": None, "cached_tokens": 1}
            if body["return_logprob"]:
                about["output_token_logprobs"] = [[-1.5, token, None]]
                about["output_top_logprobs"] = [[[-0.5, 7, None], [-1.5, token, None], [None, 8, None]]]
            self._tell(text="?", output_ids=[token], meta_info=about)
            if token in ends:
                break
        self.wfile.write(b"data: [DONE]\n\n")

    def _breaks(self, index: int) -> bool:
        time.sleep(OPTIONS.get("token_s", 0))
        if OPTIONS.get("breaks_after") != index:
            return False
        OPTIONS["is_never_healthy"] = not OPTIONS.get("stays_healthy")
        self._tell(error={"message": "it broke", "code": 500})
        return True

    def _tell(self, **values: Any) -> None:
        self.wfile.write(f"data: {json.dumps(values)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


def _scored(token: int) -> dict[str, Any]:
    return {"id": token, "logprob": -1.5, "top_logprobs": [{"id": 7, "logprob": -0.5}, {"id": token, "logprob": -1.5}]}


if __name__ == "__main__":
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(pid=os.getpid(), engine=engine.pid, arguments=sys.argv[1:], variables=dict(os.environ))
    time.sleep(OPTIONS.get("start_s", 0))
    if "dies" in OPTIONS:
        sys.exit(OPTIONS["dies"])
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
