"""The prompt token ids on every path of the product that renders a conversation."""

from __future__ import annotations

import json
from typing import Any

from backend.domain.serving.protocol import ChatMessage, GenerateRequest
from backend.gateway.dialects.completions import ChatBody
from jobs.batches.preference import encode_preference, read_preference
from jobs.evaluation import without_task
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.modeling.chat import assistant_turns, encode_answer, encode_chat
from jobs.serving.answering import encode_prompts
from jobs.training.samples import encode_sample_prompt
from tests.support.networks.chat_styles import ANSWER


def prompts_everywhere(
    tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> dict[str, list[int]]:
    """The ids after which the next answer is written, on each of the product's paths."""
    conversation = [*messages, ANSWER]
    row = {"prompt": messages, "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "Who knows."}]}
    request = GenerateRequest(
        messages=tuple(ChatMessage.model_validate(m) for m in messages), tools=tuple(tools) if tools else None
    )
    whole = encode_chat(tokenizer, conversation, tools=tools)
    first_trained = whole[1].index(True)
    before, answer = assistant_turns(tokenizer, conversation, tools=tools)[-1][1:]
    paths = {
        "preference training": encode_preference(
            read_preference({**row, **({"tools": json.dumps(tools)} if tools else {})}), tokenizer=tokenizer
        )["prompt_ids"],
        "endpoint and playground": encode_prompts(tokenizer, request)[0],
        "evaluation of answers": encode_answer(tokenizer, before, answer)[0],
    }
    if messages[-1] == conversation[-2] and not any(message["role"] == "assistant" for message in messages):
        paths["fine-tuning"] = whole[0][:first_trained]
    if tools is None:
        body = ChatBody.model_validate(
            {"model": "m", "messages": [{key: m[key] for key in ("role", "content")} for m in messages]}
        )
        paths["gateway"] = encode_prompts(tokenizer, body.to_request())[0]
        paths["battles and generation"] = EvaluatedNetwork(None, tokenizer, True).prompt_ids(messages, chat=True)  # type: ignore[arg-type]
    if [message["role"] for message in messages] == ["user"]:
        question = {"question": messages[0]["content"], "choices": ["Mira", "Jon"], "answer": 0}
        context, _ = without_task.render_choices(
            EvaluatedNetwork(None, tokenizer, True), question, examples=[], chat=True
        )  # type: ignore[arg-type]
        paths["multiple choice"] = encode_answer(tokenizer, context, "Mira")[0]
        paths["samples of a run"] = encode_sample_prompt(tokenizer, messages[0]["content"], chat=True)
    return paths
