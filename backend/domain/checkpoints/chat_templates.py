"""Chat templates stored with checkpoints: one for tokenizers trained here, two for bases without one. Text, no Jinja
engine.

Trainer, playground, endpoint, evaluation and battles all render with the checkpoint's template, so a prompt has the
same tokens everywhere.

Tools are written as text in the format of Hermes and Qwen, which servers parse:

    in the system turn      <tools>, one JSON object a line, </tools>, and how to call one
    a call                  in the assistant's turn: <tool_call>, {"name": ..., "arguments": {...}}, </tool_call>
    a result                a turn of the user: <tool_response>, the text, </tool_response>
"""

from __future__ import annotations

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
ROLE_TOKENS = tuple(f"<|{role}|>" for role in ROLES)
SPECIAL_TOKENS = (BOS, END, PAD, *ROLE_TOKENS)

_OFFERED = (
    "{% set offered = namespace(text='') %}"
    "{% if tools is defined and tools %}"
    "{% set offered.text = 'You may call these tools:\n<tools>' %}"
    "{% for tool in tools %}{% set offered.text = offered.text ~ '\n' ~ (tool | tojson) %}{% endfor %}"
    "{% set offered.text = offered.text ~ '\n</tools>\nTo call one, write\n<tool_call>\n"
    '{"name": "its name", "arguments": {"an argument": "its value"}}\n</tool_call>\' %}'
    "{% endif %}"
)
_CALLS = (
    "{% if message['tool_calls'] is defined and message['tool_calls'] %}{% for call in message['tool_calls'] %}{% if"
    " message['content'] or not loop.first %}{{ '\n' }}{% endif %}{{ '<tool_call>\n{\"name\": ' ~"
    " (call['function']['name'] | tojson) ~ ', \"arguments\": ' }}{{ call['function']['arguments'] if"
    " call['function']['arguments'] is string else (call['function']['arguments'] | tojson) }}{{ '}\n</tool_call>' }}{%"
    " endfor %}{% endif %}"
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    + _OFFERED
    + "{% if offered.text and messages[0]['role'] != 'system' %}{{ '<|system|>' ~ offered.text ~ '<|end|>' }}{%"
    " endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}"
    "{{ '<|user|><tool_response>\n' ~ message['content'] ~ '\n</tool_response><|end|>' }}"
    "{% elif message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Unknown role ' ~ message['role'] ~ ': use system, user, assistant or tool.') }}"
    "{% else %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] }}"
    "{% if message['role'] == 'system' and loop.first and offered.text %}"
    "{{ ('\n\n' if message['content'] else '') ~ offered.text }}"
    "{% endif %}"
    + _CALLS
    + "{{ '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A role's token, the content, `<|end|>`; nothing else, not even a line break, so no token straddles a border."""

PLAIN_TEMPLATE = (
    "{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ message['content'] }}"
    "{% if message['role'] == 'assistant' and eos_token is defined and eos_token %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
"""For a base without a chat format: contents are concatenated as raw text, which it continues. Without tools."""

TEXT_TEMPLATE = (
    "{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    + _OFFERED
    + "{% if offered.text and messages[0]['role'] != 'system' %}{{ 'System:\n' ~ offered.text ~ '\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize ~ ':\n' ~ message['content'] }}"
    "{% if message['role'] == 'system' and loop.first and offered.text %}"
    "{{ ('\n\n' if message['content'] else '') ~ offered.text }}"
    "{% endif %}"
    + _CALLS
    + "{% if message['role'] == 'assistant' and eos_token is defined and eos_token %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""For fine-tuning a base whose tokenizer has no role tokens: the roles are written out."""
