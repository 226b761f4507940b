"""Trained tokens equal those of generation, token for token."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.checkpoints.chat_templates import CHAT_TEMPLATE, PLAIN_TEMPLATE, ROLE_TOKENS, TEXT_TEMPLATE
from backend.errors import InvalidInput
from jobs.modeling.chat import encode_chat, encode_prompt, ensure_template, teach_template
from jobs.modeling.tokenizers import byte_tokenizer, encode_texts, train_bpe
from tests.support.training_rooms import make_stories

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|system|>Be kind.<|end|>\n{% endif %}"
    "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and not loop.last %}{{ m.content[:2] }}{% else"
    " %}{{ m.content }}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TWO_TURNS = [
    {"role": "system", "content": "You know the village."},
    {"role": "user", "content": "Who found the lamp?"},
    {"role": "assistant", "content": " Mira found it — très vite. 🙂"},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def make(template: str | None = None) -> Any:
    tokenizer = train_bpe(make_stories(100), vocab_size=400)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    "template",
    [None, CHATML, PLAIN_TEMPLATE, TEXT_TEMPLATE, FORGETFUL],
    ids=["own", "chatml", "plain", "text", "forgetful"],
)
@pytest.mark.parametrize(
    "messages", [TWO_TURNS, TWO_TURNS[:3], TWO_TURNS[1:3]], ids=["two-turns", "one-turn", "no-system"]
)
def test_ids_equal_those_of_apply_chat_template(template: str | None, messages: list[dict[str, str]]) -> None:
    tokenizer = make(template)
    ids, mask = encode_chat(tokenizer, messages)
    assert ids == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert len(mask) == len(ids)


@pytest.mark.parametrize("template", [None, CHATML, TEXT_TEMPLATE], ids=["own", "chatml", "text"])
def test_generation_prompt_and_completion_are_the_training_ids_and_the_completion_is_what_is_trained(
    template: str | None,
) -> None:
    tokenizer = make(template)
    for turn in (2, 4):
        ids, mask = encode_chat(tokenizer, TWO_TURNS[: turn + 1])
        prompt = encode_prompt(tokenizer, TWO_TURNS[:turn])
        completion = [*encode_texts(tokenizer, [TWO_TURNS[turn]["content"]])[0], tokenizer.eos_token_id]
        end = len(prompt) + len(completion)
        assert ids[:end] == prompt + completion
        assert mask[len(prompt) : end] == [True] * len(completion)
        assert not any(mask[end:])  # a line break that the template adds after the end token


def test_only_assistant_turns_and_their_end_tokens_are_trained_on() -> None:
    tokenizer = make(CHATML)
    ids, mask = encode_chat(tokenizer, TWO_TURNS)
    trained = tokenizer.decode([token for token, chosen in zip(ids, mask, strict=True) if chosen])
    assert trained == " Mira found it — très vite. 🙂<|end|>Yes.<|end|>"


def test_an_answer_that_the_template_rewrites_later_is_not_trained_on() -> None:
    tokenizer = make(FORGETFUL)
    ids, mask = encode_chat(tokenizer, TWO_TURNS)
    assert tokenizer.decode([token for token, chosen in zip(ids, mask, strict=True) if chosen]) == "Yes.<|end|>"


def test_a_bare_base_continues_raw_text_after_its_bos() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    assert ensure_template(tokenizer) is False
    messages = [{"role": "user", "content": "Once upon"}, {"role": "assistant", "content": " a time"}]
    assert tokenizer.decode(encode_prompt(tokenizer, messages[:1])) == "<|bos|>Once upon"
    ids, mask = encode_chat(tokenizer, messages)
    assert tokenizer.decode(ids) == "<|bos|>Once upon a time<|end|>"
    assert tokenizer.decode([token for token, chosen in zip(ids, mask, strict=True) if chosen]) == " a time<|end|>"
    assert ensure_template(make()) is True


def test_a_token_that_reaches_from_the_prompt_into_the_answer_is_not_trained_on() -> None:
    tokenizer = make(PLAIN_TEMPLATE)
    word = "Everyone"
    whole = encode_texts(tokenizer, [word])[0]
    assert len(whole) < len(encode_texts(tokenizer, [word[:4]])[0]) + len(encode_texts(tokenizer, [word[4:]])[0])
    ids, mask = encode_chat(
        tokenizer, [{"role": "user", "content": word[:4]}, {"role": "assistant", "content": word[4:]}]
    )
    assert [tokenizer.decode([token]) for token, chosen in zip(ids, mask, strict=True) if chosen] == ["<|end|>"]


def test_a_role_unknown_to_the_template_is_refused_with_its_message() -> None:
    with pytest.raises(InvalidInput, match=r"refuses the conversation \(user, robot\): Unknown role robot"):
        encode_chat(make(), [{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}])


def test_a_network_trained_on_plain_text_gets_the_plain_template_and_one_trained_on_chats_a_chat_template() -> None:
    tokenizer = make()
    teach_template(tokenizer, chats=False)
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    teach_template(tokenizer, chats=True)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    tokenizer.chat_template = CHATML
    teach_template(tokenizer, chats=True)
    assert tokenizer.chat_template == CHATML, "what a base brought is kept"


def test_a_base_without_role_tokens_learns_to_chat_with_written_roles() -> None:
    tokenizer = make(PLAIN_TEMPLATE)
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if token not in ROLE_TOKENS}
    tokenizer.get_vocab = lambda: vocabulary
    teach_template(tokenizer, chats=True)
    assert tokenizer.chat_template == TEXT_TEMPLATE
