"""First token in the playground's path: from the message that a browser sends to the first event of its stream that
holds text.

    ROUNDHOUSE_HOME=... python -m tests.benchmarks.serving.bench_playground http://127.0.0.1:8501 ENDPOINT [MESSAGES]

Speaks to a running installation as the page's component does: one request that stores the message, begins the answer,
replies with the conversation and streams the answer. Prints one line of JSON: medians and 95th percentiles in
milliseconds, with the machine's load.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import httpx2

from backend.bootstrap import get_context
from backend.domain.serving.chat import ChatSettings
from backend.services.context import LOCAL
from backend.services.serving.conversations import chat_token

WARM_UP = 5


def send(client: httpx2.Client, settings: ChatSettings, text: str) -> tuple[float, float, float]:
    """Send a message; return milliseconds to the reply, to the first text, and to the first token by the server's own
    count.
    """
    began = time.perf_counter()
    replied, first, conversation = began, None, ""
    body, accept = {"text": text, "settings": settings.model_dump()}, {"accept": "text/event-stream"}
    with client.stream("POST", "/playground/api/send", json=body, headers=accept) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and not conversation:
                replied, conversation = time.perf_counter(), json.loads(line[6:])["id"]
            elif line.startswith("data: ") and first is None:
                first = time.perf_counter()
    params = {"conversation": conversation}
    usage = client.get("/playground/api/chat", params=params).json()["turns"][-1]["answers"][0]["usage"]
    return (replied - began) * 1000, ((first or time.perf_counter()) - began) * 1000, usage["ttft_ms"]


def main(url: str, endpoint: str, count: int) -> None:
    """Measure `count` messages of new conversations, after a warm-up."""
    settings = ChatSettings(endpoints=(endpoint,), temperature=0.0, max_tokens=32)
    with httpx2.Client(
        base_url=url, headers={"authorization": f"Bearer {chat_token(get_context(), LOCAL)}"}, timeout=60
    ) as client:
        rows = [send(client, settings, f"Once upon a time, {number}") for number in range(count + WARM_UP)][WARM_UP:]
    result = {"messages": count, "load": [round(value, 1) for value in os.getloadavg()]}
    for name, column in zip(("reply_ms", "first_text_ms", "server_ttft_ms"), zip(*rows, strict=True), strict=True):
        result[name] = {
            "median": round(statistics.median(column), 1),
            "p95": round(statistics.quantiles(column, n=20)[-1], 1),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 40)
