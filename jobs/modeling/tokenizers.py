"""Tokenizers of our own: byte-level BPE trained on a dataset, and plain bytes. Saved so that AutoTokenizer loads them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from backend.domain.chat_template import BOS, CHAT_TEMPLATE, END, PAD, ROLE_TOKENS, SPECIAL_TOKENS
from backend.errors import InvalidInput

SMALLEST_BPE = len(SPECIAL_TOKENS) + 256
"""The special tokens and all bytes: below this a text could not be written."""


def train_bpe(texts: Iterable[str], *, vocab_size: int, context: int | None = None) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in GPT-2) of at most `vocab_size` entries.

    Every text can be written in it, since all 256 bytes are entries. A small text may yield fewer merges than asked for.
    `context` is stored as the longest sequence. Raises InvalidInput if `vocab_size` is below 262.
    """
    if vocab_size < SMALLEST_BPE:
        raise InvalidInput(
            f"A vocabulary of {vocab_size} is too small for byte-level BPE.",
            remedy=f"Use at least {SMALLEST_BPE}: 256 bytes and {len(SPECIAL_TOKENS)} special tokens.",
            field="vocab_size",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return _finish(tokenizer, context=context)


def byte_tokenizer(*, context: int | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are the 256 bytes, after the special tokens: 262 entries, nothing to train."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return _finish(tokenizer, context=context)


def _finish(tokenizer: Tokenizer, *, context: int | None) -> PreTrainedTokenizerFast:
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLE_TOKENS),
        clean_up_tokenization_spaces=False,
        **({"model_max_length": context} if context else {}),
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Encode texts without special tokens. Text that happens to spell a special token is cut up like any other text."""
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def token_bytes(tokenizer: PreTrainedTokenizerBase, *, vocab_size: int | None = None) -> npt.NDArray[np.int32]:
    """Return how many bytes of text each token stands for; special tokens stand for none.

    Shape (vocab_size,) (default: the tokenizer's). The sum over the tokens of a text is the text's length in UTF-8 bytes, except for
    tokenizers that change the text (a space put before the first word).
    """
    size = len(tokenizer)
    lengths = np.zeros(max(size, vocab_size or size), dtype=np.int32)
    pieces = tokenizer.convert_ids_to_tokens(list(range(size)))
    byte_level = '"ByteLevel"' in _part(tokenizer, "decoder")
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for index, piece in enumerate(pieces):
        if piece is None or index in special:
            continue
        lengths[index] = len(piece) if byte_level else _piece_bytes(piece)
    return lengths


def _part(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    part = getattr(tokenizer.backend_tokenizer, name)
    return "" if part is None else part.__getstate__().decode()


def _piece_bytes(piece: str) -> int:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return 1  # SentencePiece writes a byte without a letter of its own as <0xAB>
    return len(piece.replace("\u2581", " ").encode())
