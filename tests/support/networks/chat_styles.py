"""Chat templates in the styles of common families, written for these tests, with matching tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from backend.domain.checkpoints.chat_templates import TEXT_TEMPLATE
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.training_rooms import make_stories

LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start|>system<|stop|>\\n\\nKnowledge ends in 2023.\\n\\n' + system_message + '<|eot|>' }}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {{- '<|start|>assistant<|stop|>\\n\\n' }}
        {{- '{"name": "' + message.tool_calls[0].function.name + '", "parameters": ' }}
        {{- message.tool_calls[0].function.arguments | tojson }}
        {{- '}<|eot|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start|>ipython<|stop|>\\n\\n' + message.content + '<|eot|>' }}
    {%- else %}
        {%- if loop.first and tools %}
            {{- '<|start|>user<|stop|>\\n\\nTools: ' + (tools | tojson(indent=4)) + '\\n\\n' + message['content'] | trim + '<|eot|>' }}
        {%- else %}
            {{- '<|start|>' + message['role'] + '<|stop|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|stop|>\\n\\n' }}
{%- endif %}
"""  # noqa: E501
CHATML = """{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nBe of help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<turn>' + role + '\\n' + message['content'] | trim + '<end_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"""  # noqa: E501
MISTRAL = """{%- if messages[0].role == 'system' %}
{%- set lead = messages[0].content + '\\n\\n' %}{%- set rest = messages[1:] %}
{%- else %}{%- set lead = '' %}{%- set rest = messages %}{%- endif %}
{{- bos_token }}
{%- for message in rest %}
{%- if message.role == 'user' %}
{{- '[INST] ' + (lead if loop.first else '') + message.content + ' [/INST]' }}
{%- elif message.role == 'assistant' %}
{{- ' ' + message.content + eos_token }}
{%- else %}{{- raise_exception('Only user and assistant roles are supported') }}{%- endif %}
{%- endfor %}"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
DEEPSEEK = """{% set ns = namespace(system='') %}
{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system = message['content'] %}{%- endif %}{%- endfor %}
{{- bos_token }}{{- ns.system }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{- '<|User|>' + message['content'] }}{%- endif %}
{%- if message['role'] == 'assistant' %}{{- '<|Assistant|>' + message['content'] + eos_token }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|>' }}{%- endif %}"""  # noqa: E501
QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' %}{%- set ns.searching = false %}{%- set ns.last_query = index %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- set thoughts = '' %}
        {%- if '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thoughts) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {%- if call.function.arguments is string %}{{- call.function.arguments }}{%- else %}{{- call.function.arguments | tojson }}{%-
            endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""  # noqa: E501
R1 = """{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{- '<|User|>' + message['content'] }}{%- endif %}
{%- if message['role'] == 'assistant' %}{{- '<|Assistant|>' + message['content'].split('</think>')[-1] + eos_token }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\\n' }}{%- endif %}"""  # noqa: E501

LLAMA2 = """{%- if messages[0]['role'] == 'system' %}
{%- set rest = messages[1:] %}{%- set lead = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{%- else %}{%- set rest = messages %}{%- set lead = '' %}{%- endif %}
{%- for message in rest %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Roles must alternate') }}{%- endif %}
{%- if message['role'] == 'user' %}{{- bos_token + '[INST] ' + ((lead if loop.first else '') + message['content']).strip() + ' [/INST]' }}
{%- else %}{{- ' ' + message['content'].strip() + ' ' + eos_token }}{%- endif %}
{%- endfor %}"""  # noqa: E501
PHI3 = """{% for message in messages %}{% if message['role'] in ['system', 'user', 'assistant'] %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% else %}{{- eos_token }}{% endif %}"""
PHI4 = """{% for message in messages %}{{- '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endfor
%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""  # noqa: E501
SMOLLM = """{% for message in messages %}
{%- if loop.first and messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are of help.<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""  # noqa: E501


@dataclass(frozen=True)
class Style:
    """A chat template with its tokens and its kind of tokenizer."""

    template: str | None
    specials: tuple[str, ...] = ()
    bos: str | None = None
    eos: str = "</s>"
    pieces: bool = False  # SentencePiece's: spaces as letters, a space added before the first word
    adds_bos: bool = False  # the tokenizer itself puts BOS before a text
    system: bool = True
    tools: bool = True


STYLES: dict[str, Style] = {
    "llama3": Style(LLAMA3, ("<|start|>", "<|stop|>", "<|eot|>"), bos="<s>", eos="<|eot|>", adds_bos=True),
    "chatml": Style(CHATML, ("<|im_start|>", "<|im_end|>"), eos="<|im_end|>"),
    "chatml-other-eos": Style(CHATML, ("<|im_start|>", "<|im_end|>"), eos="<|endoftext|>"),
    "gemma": Style(
        GEMMA, ("<turn>", "<end_turn>"), bos="<bos>", eos="<eos>", pieces=True, adds_bos=True, system=False, tools=False
    ),
    "mistral": Style(MISTRAL, ("[INST]", "[/INST]"), bos="<s>", pieces=True, adds_bos=True, tools=False),
    "zephyr": Style(ZEPHYR, (), bos="<s>", pieces=True, adds_bos=True, tools=False),
    "deepseek": Style(DEEPSEEK, ("<|User|>", "<|Assistant|>"), bos="<s>", tools=False),
    "llama2": Style(LLAMA2, bos="<s>", pieces=True, adds_bos=True, tools=False),
    "phi3": Style(
        PHI3,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        bos="<s>",
        eos="<|endoftext|>",
        pieces=True,
        tools=False,
    ),
    "phi4": Style(
        PHI4, ("<|im_start|>", "<|im_sep|>", "<|im_end|>"), bos="<|endoftext|>", eos="<|im_end|>", tools=False
    ),
    "smollm": Style(SMOLLM, ("<|im_start|>", "<|im_end|>"), bos="<|im_start|>", eos="<|im_end|>", tools=False),
    "qwen3": Style(QWEN3, ("<|im_start|>", "<|im_end|>"), eos="<|im_end|>"),
}


def make_tokenizer(style: Style) -> Any:
    """Train a small tokenizer of the style's kind."""
    specials = [token for token in (style.bos, style.eos, *style.specials) if token]
    tokenizer = Tokenizer(models.BPE(byte_fallback=style.pieces, unk_token="<unk>" if style.pieces else None))
    fallback = [f"<0x{byte:02X}>" for byte in range(256)] if style.pieces else []
    if style.pieces:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + len(fallback) + 460,
        show_progress=False,
        special_tokens=["<unk>", *specials, *fallback],
        initial_alphabet=[] if style.pieces else sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(make_stories(60), trainer=trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    if style.adds_bos and style.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{style.bos} $A", special_tokens=[(style.bos, tokenizer.token_to_id(style.bos))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=style.eos,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(style.specials),
        **({"bos_token": style.bos} if style.bos else {}),
    )
    fast.chat_template = style.template
    return fast


SYSTEM = {"role": "system", "content": "You know the village."}
ASKED = {"role": "user", "content": "Who found the lamp?"}
ANSWER = {"role": "assistant", "content": "Mira found it."}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"place": "the tower", "deep": true}'},
}
LOOK = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
}
UNICODE = "Très vite 🙂 — 你好,\u200d ज़रूर \t  and  spaces  "
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "single": [ASKED, ANSWER],
    "multi": [ASKED, ANSWER, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}],
    "system": [SYSTEM, ASKED, ANSWER],
    "unicode": [{"role": "user", "content": UNICODE}, {"role": "assistant", "content": UNICODE[::-1]}],
    "tools": [
        SYSTEM,
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"seen": "a lamp"}', "tool_call_id": "c1"},
        {"role": "assistant", "content": "In the tower."},
    ],
}
OWN = {
    "own": Style(None, bos="<|bos|>", eos="<|end|>"),
    "written-roles": Style(TEXT_TEMPLATE, bos="<s>", adds_bos=True),
}
ALL = {**STYLES, **OWN}


@cache
def tokenizer_of(style: str) -> Any:
    """Return the tokenizer of a style, cached."""
    return byte_tokenizer() if style == "own" else make_tokenizer(ALL[style])
