"""Trainer, playground, endpoint, evaluation and battles render a conversation to the same tokens, for every
checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES, FAMILY_NAMES
from backend.domain.checkpoints.chat_templates import CHAT_TEMPLATE
from backend.domain.data.rows.conversations import template_messages
from backend.domain.serving.protocol import ChatMessage, GenerateRequest
from backend.errors import InvalidInput
from jobs.batches.preference import encode_preference, read_preference
from jobs.batches.sft import encode_row
from jobs.evaluation.subject import EvaluatedNetwork, load_subject
from jobs.modeling.build import build_network
from jobs.modeling.chat import encode_chat, encode_prompt, training_chats, turn_end
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import byte_tokenizer
from jobs.serving.answering import encode_prompts
from jobs.serving.replica import add_end_token
from tests.support.networks.chat_paths import prompts_everywhere
from tests.support.networks.chat_styles import (
    ALL,
    ANSWER,
    ASKED,
    CONVERSATIONS,
    LOOK,
    R1,
    SYSTEM,
    Style,
    make_tokenizer,
    tokenizer_of,
)

CASES = [
    pytest.param(style, name, id=f"{style}-{name}")
    for style, facts in ALL.items()
    for name in CONVERSATIONS
    if (facts.system or name != "system") and (facts.tools or name != "tools")
]


@pytest.mark.parametrize(("style", "name"), CASES)
def test_every_path_gives_the_ids_of_transformers_own_rendering(style: str, name: str) -> None:
    tokenizer, messages = tokenizer_of(style), CONVERSATIONS[name]
    tools = [LOOK] if name == "tools" else None
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        expected = tokenizer.apply_chat_template(
            template_messages(messages[:place]),
            tools=tools,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        assert encode_prompt(tokenizer, messages[:place], tools=tools) == expected
        for path, ids in prompts_everywhere(tokenizer, messages[:place], tools).items():
            assert ids == expected, path


@pytest.mark.parametrize(("style", "name"), CASES)
def test_trained_tokens_are_those_that_generation_produces_after_its_prompt(style: str, name: str) -> None:
    tokenizer, messages = tokenizer_of(style), CONVERSATIONS[name]
    tools = [LOOK] if name == "tools" else None
    row = {"messages": messages, **({"tools": json.dumps(tools)} if tools else {})}
    examples = encode_row(tokenizer, row, context=4096)
    assert examples[0].untruncated == tokenizer.apply_chat_template(
        template_messages(messages), tools=tools, tokenize=True, return_dict=False
    )
    trained = [spans_of(example.targets.tolist(), example.ids.tolist()) for example in examples]
    met = [span for spans in trained for span in spans]
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(met) == len(answers), "every answer is trained on once"
    expected = {tuple(encode_prompt(tokenizer, messages[:place], tools=tools)): messages[place] for place in answers}
    for prompt, answer in met:
        message = expected.pop(tuple(prompt))
        text = tokenizer.decode(answer)
        assert message["content"].strip() in text
        assert not message.get("tool_calls") or "look" in text
        assert tokenizer.decode(answer[-1:]) in tokenizer.all_special_tokens, (
            "the answer ends with the token that ends a turn"
        )


def spans_of(targets: list[int], ids: list[int]) -> list[tuple[list[int], list[int]]]:
    """Return (tokens before it, its tokens) of each run of trained tokens."""
    spans, start = [], None
    for place, target in enumerate([*targets, -100]):
        if target != -100 and start is None:
            start = place
        elif target == -100 and start is not None:
            spans.append((ids[:start], ids[start:place]))
            start = None
    return spans


def tiny(family: str) -> ArchitectureConfig:
    shape = {
        "family": family,
        "num_layers": 2,
        "width": 32,
        "num_heads": 2,
        "num_kv_heads": 2,
        "context": 256,
        "vocab_size": 262,
    }
    small = {
        "num_experts": 2,
        "experts_per_token": 1,
        "expert_feed_forward": 16,
        "shared_experts": 1,
        "dense_layers": 1,
        "kv_rank": 8,
        "query_rank": 0,
        "rope_head_size": 4,
        "nope_head_size": 4,
        "value_head_size": 8,
    }
    own = {name: value for name, value in small.items() if name in FAMILIES[family].fields}
    return ArchitectureConfig.model_validate({**shape, "feed_forward": 128, **own})


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_checkpoint_of_each_family_keeps_its_template_and_tokens(family: str, tmp_path: Path) -> None:
    before = byte_tokenizer(context=256)
    network = build_network(tiny(family), seed=1, bos_token_id=before.bos_token_id, eos_token_id=before.eos_token_id)
    save_checkpoint(tmp_path / "c", model=network, tokenizer=before, meta={})
    subject, after = load_subject(tmp_path / "c"), load_tokenizer(tmp_path / "c")
    assert after.chat_template == CHAT_TEMPLATE
    for name, messages in CONVERSATIONS.items():
        tools = [LOOK] if name == "tools" else None
        expected = encode_prompt(before, messages[:-1], tools=tools)
        for tokenizer in (after, subject.tokenizer):
            assert encode_chat(tokenizer, messages, tools=tools) == encode_chat(before, messages, tools=tools)
            for path, ids in prompts_everywhere(tokenizer, messages[:-1], tools).items():
                assert ids == expected, (path, name)
    assert subject.taught_chat


@pytest.mark.parametrize("style", [name for name in ALL if name != "own"])
def test_a_base_keeps_its_own_template_through_a_checkpoint(style: str, tmp_path: Path) -> None:
    before = tokenizer_of(style)
    before.save_pretrained(tmp_path)
    after = load_tokenizer(tmp_path)
    assert after.chat_template == ALL[style].template
    assert encode_chat(after, CONVERSATIONS["multi"]) == encode_chat(before, CONVERSATIONS["multi"])
    assert encode_prompt(after, [ASKED]) == encode_prompt(before, [ASKED])


def test_a_template_that_rewrites_earlier_answers_still_has_each_trained_on_once() -> None:
    tokenizer = tokenizer_of("qwen3")
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nMira."}
    messages = [
        ASKED,
        thought,
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "<think>\nyes\n</think>\n\nYes."},
    ]
    last, first = training_chats(tokenizer, messages)
    assert trained_text(tokenizer, last) == "<think>\nyes\n</think>\n\nYes.<|im_end|>"
    assert trained_text(tokenizer, first) == "<think>\nhm\n</think>\n\nMira.<|im_end|>"
    assert first.ids[: len(encode_prompt(tokenizer, [ASKED]))] == encode_prompt(tokenizer, [ASKED])
    assert "hm" not in tokenizer.decode(last.ids), "as in generation, without the first answer's reasoning"
    assert last.skipped == 0


def trained_text(tokenizer: Any, chat: Any) -> str:
    text: str = tokenizer.decode([token for token, chosen in zip(chat.ids, chat.mask, strict=True) if chosen])
    return text


def test_an_answer_that_generation_could_never_write_is_not_trained_on_and_counted() -> None:
    tokenizer = make_tokenizer(Style(R1, ("<|User|>", "<|Assistant|>"), bos="<s>"))
    (chat,) = training_chats(tokenizer, CONVERSATIONS["multi"])
    assert not any(chat.mask)
    assert chat.skipped == 2
    with pytest.raises(InvalidInput, match="renders the prompt differently once an answer follows"):
        encode_preference(
            read_preference({"prompt": [ASKED], "chosen": [ANSWER], "rejected": [ANSWER]}), tokenizer=tokenizer
        )


def test_a_base_without_a_system_role_refuses_it_on_every_path() -> None:
    tokenizer, messages = tokenizer_of("gemma"), [SYSTEM, ASKED]
    request = GenerateRequest(messages=tuple(ChatMessage.model_validate(m) for m in messages))
    words = r"refuses the conversation \(system, user.*System role not supported"
    with pytest.raises(InvalidInput, match=words):
        encode_prompts(tokenizer, request)
    with pytest.raises(InvalidInput, match=words):
        encode_row(tokenizer, {"messages": [*messages, ANSWER]}, context=64)
    with pytest.raises(InvalidInput, match=words):
        EvaluatedNetwork(None, tokenizer, True).prompt_ids(messages, chat=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("style", "end"),
    [("chatml-other-eos", "<|im_end|>"), ("gemma", "<end_turn>"), ("llama3", "<|eot|>"), ("own", "<|end|>")],
)
def test_generation_stops_where_the_template_ends_a_turn(style: str, end: str) -> None:
    tokenizer = tokenizer_of(style)
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == end
    network = build_network(tiny("llama"), seed=1, eos_token_id=7)
    add_end_token(network, turn_end(tokenizer))
    assert network.generation_config.eos_token_id == [7, tokenizer.convert_tokens_to_ids(end)]
    add_end_token(network, 7)
    assert network.generation_config.eos_token_id[0] == 7


def test_a_template_that_ends_turns_with_nothing_has_no_end_token() -> None:
    tokenizer = make_tokenizer(Style("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", bos="<s>"))
    assert turn_end(tokenizer) is None
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    assert turn_end(tokenizer) is None


def test_our_template_writes_tools_as_text_that_can_be_parsed() -> None:
    tokenizer = tokenizer_of("own")
    text = tokenizer.decode(encode_chat(tokenizer, CONVERSATIONS["tools"], tools=[LOOK])[0])
    assert (
        f"<|system|>You know the village.\n\nYou may call these tools:\n<tools>\n{json.dumps(LOOK)}\n</tools>" in text
    )
    assert (
        '<|assistant|><tool_call>\n{"name": "look", "arguments": {"place": "the tower", "deep":'
        " true}}\n</tool_call><|end|>" in text
    )
    assert '<|user|><tool_response>\n{"seen": "a lamp"}\n</tool_response><|end|>' in text
    alone = tokenizer.decode(encode_prompt(tokenizer, [ASKED], tools=[LOOK]))
    assert alone.startswith("<|bos|><|system|>You may call these tools:")
