"""Tiny networks with random weights and a byte tokenizer, saved as any Hugging Face tool would: what serving tests
serve.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import peft
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

from jobs.modeling.devices import pick_device

END_ID = 256
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{%"
    " endif %}"
)


def make_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """A byte-level tokenizer of 256 bytes and four special tokens."""
    vocab = {byte: index for index, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocab.update({token: len(vocab) + index for index, token in enumerate(special)})
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", additional_special_tokens=special[1:]
    )
    fast.chat_template = chat_template
    return fast


def make_byte_fallback_tokenizer() -> Any:
    """A SentencePiece tokenizer of the same size: `▁`, `a` and `b`, and every other character as its bytes."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab.update({token: len(vocab) + index for index, token in enumerate(["</s>", "▁", "a", "b"])})
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def on_device(network: Any) -> Any:
    """Return a network for inference on the device that a job would choose."""
    return network.eval().to(pick_device())


def make_llama(*, context: int = 256, layers: int = 2, hidden: int = 64) -> Any:
    """A Llama whose greedy text wanders instead of repeating one token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=None,
        initializer_range=0.15,
    )
    return on_device(LlamaForCausalLM(config))


def make_gpt2(*, context: int = 256, hidden: int = 64) -> Any:
    """A GPT-2 with learned positions."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=260,
        n_embd=hidden,
        n_layer=2,
        n_head=4,
        n_positions=context,
        bos_token_id=None,
        eos_token_id=END_ID,
        initializer_range=0.15,
    )
    return on_device(GPT2LMHeadModel(config))


def make_mamba() -> Any:
    """A network without attention, which continuous batching can't serve."""
    torch.manual_seed(0)
    return on_device(
        MambaForCausalLM(
            MambaConfig(vocab_size=260, hidden_size=32, num_hidden_layers=1, state_size=4, eos_token_id=END_ID)
        )
    )


def save_checkpoint(folder: Path, *, network: Any | None = None, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Save a network and its tokenizer as a checkpoint folder."""
    (network or make_llama()).to("cpu").save_pretrained(folder)
    make_tokenizer(chat_template=chat_template).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, *, base: Path, targets: list[str], seed: int, rank: int = 4) -> Path:
    """Save a random LoRA adapter of a saved network, as training does: PEFT's files, and a card that names the base."""
    torch.manual_seed(seed)
    network: Any = AutoModelForCausalLM.from_pretrained(base)
    adapted: Any = peft.get_peft_model(
        network, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    (folder / "roundhouse.json").write_text(json.dumps({"base_path": os.path.relpath(base, folder)}))
    return folder
