"""Time to first token and tokens per second through the gateway, one request at a time and eight at once.

    python -m tests.benchmarks.bench_serving BASE_URL ENDPOINT [KEY]

BASE_URL is a running installation's gateway on loopback, such as http://127.0.0.1:8100/v1. Bounded: 10 single and 3 x 8
requests.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

import openai

MAX_TOKENS = 96


async def ask(client: openai.AsyncOpenAI, model: str, number: int) -> tuple[float, int, float]:
    """Return (seconds to the first token, tokens, seconds in all) of one streamed request."""
    started = time.perf_counter()
    first, tokens = 0.0, 0
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Tell me a story, number {number}."}],
        max_tokens=MAX_TOKENS,
        temperature=0.8,
        seed=number,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content and not first:
            first = time.perf_counter() - started
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return first, tokens, time.perf_counter() - started


async def main(url: str, model: str, key: str) -> None:
    """Measure and print one line of JSON."""
    client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)
    await ask(client, model, 0)
    single = [await ask(client, model, n) for n in range(1, 11)]
    eight = []
    for batch in range(3):
        started = time.perf_counter()
        answers = await asyncio.gather(*(ask(client, model, 100 * batch + n) for n in range(8)))
        eight.append((answers, time.perf_counter() - started))
    print(
        json.dumps(
            {
                "single_ttft_median_ms": round(statistics.median(a[0] for a in single) * 1000, 1),
                "single_tok_per_sec": round(statistics.median(a[1] / a[2] for a in single), 1),
                "eight_ttft_median_ms": round(
                    statistics.median(a[0] for answers, _ in eight for a in answers) * 1000, 1
                ),
                "eight_tok_per_sec": round(
                    statistics.median(sum(a[1] for a in answers) / wall for answers, wall in eight), 1
                ),
            }
        )
    )


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else "local"))
