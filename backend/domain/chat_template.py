"""The chat templates that are stored with checkpoints: one for our own tokenizers, one for bare bases. Text, no Jinja engine.

Trainer, playground and endpoint all render with the template that lies in the checkpoint, so a prompt means the same tokens
everywhere.
"""

from __future__ import annotations

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
ROLE_TOKENS = tuple(f"<|{role}|>" for role in ROLES)
SPECIAL_TOKENS = (BOS, END, PAD, *ROLE_TOKENS)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Unknown role ' ~ message['role'] ~ ': use system, user or assistant.') }}"
    "{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A role's token, the content, `<|end|>`; nothing else, not even a line break, so no token straddles a border."""

PLAIN_TEMPLATE = (
    "{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ message['content'] }}"
    "{% if message['role'] == 'assistant' and eos_token is defined and eos_token %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
"""For a base that was never taught a chat form: contents run together as raw text, so it simply continues what it is given."""

TEXT_TEMPLATE = (
    "{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize ~ ':\n' ~ message['content'] }}"
    "{% if message['role'] == 'assistant' and eos_token is defined and eos_token %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""For a base that learns to chat although its tokenizer has no tokens for roles: the roles are written out."""
