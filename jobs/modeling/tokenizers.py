"""Tokenizers: trained as byte-level BPE, Unigram with byte fallback, or plain bytes, all in the form that
AutoTokenizer loads, without an import of torch; and their tokens' texts, or bytes for a token that is part of a
character.

Each that is trained here encodes any text losslessly: there is no unknown token and no normalisation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from backend.domain.checkpoints.chat_templates import BOS, CHAT_TEMPLATE, END, PAD, ROLE_TOKENS, SPECIAL_TOKENS
from backend.domain.tokenizers.pieces import PieceForm
from backend.errors import InvalidInput

MIN_BPE = len(SPECIAL_TOKENS) + 256
"""Smallest vocabulary: the special tokens and all bytes."""
MIN_UNIGRAM = MIN_BPE + 58
"""Smallest Unigram vocabulary: the same, and room for an alphabet."""
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""Pre-tokenisation pattern of GPT-2, which byte-level BPE uses as well."""
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
MARK = "\U00010a00"
"""A letter of an extinct script (Kharosthi), appended to words while Unigram trains."""
BYTE_PENALTY = 5.0
"""Log-probability of a byte relative to the least likely piece, so that bytes are used as a fallback only."""


def train_bpe(texts: Iterable[str], *, vocab_size: int, context: int | None = None) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in GPT-2) of at most `vocab_size` entries.

    All 256 bytes are entries, so it encodes any text. A small text may yield fewer merges than requested.
    `context` is stored as the longest sequence. Raises InvalidInput if `vocab_size` is below 262.
    """
    _refuse_below(MIN_BPE, vocab_size, what="byte-level BPE")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, context=context)


def train_unigram(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a Unigram tokenizer (Kudo 2018) of at most `vocab_size` entries, 256 of which are bytes.

    A character that is no piece is encoded as its UTF-8 bytes. Spaces stay spaces: unlike in SentencePiece, a text that
    contains its mark (U+2581) is decoded unchanged. No piece crosses the border of a word, so a text that spells a byte
    token or a special token (`<0x41>`) is split and not mistaken for it. A small text may yield fewer pieces than
    requested. Raises InvalidInput if `vocab_size` is below 320 or smaller than the text's alphabet (see
    `largest_alphabet`).
    """
    _refuse_below(MIN_UNIGRAM, vocab_size, what="Unigram")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - len(BYTES) + 1, special_tokens=list(SPECIAL_TOKENS), unk_token=PAD, show_progress=False
    )
    try:
        tokenizer.train_from_iterator(_every_word_twice(texts), trainer=trainer)
    except Exception as error:  # the library raises no narrower class
        if "not large enough" not in str(error):
            raise
        raise InvalidInput(
            f"A vocabulary of {vocab_size} can't hold the text's alphabet.",
            remedy="Choose a larger vocabulary.",
            field="vocab_size",
        ) from error
    state = json.loads(tokenizer.to_str())
    pieces = state["model"]["vocab"]
    specials = pieces[: len(SPECIAL_TOKENS)]
    learnt = [entry for entry in pieces[len(SPECIAL_TOKENS) :] if MARK not in entry[0]]
    last = min((score for _, score in learnt), default=0.0) - BYTE_PENALTY
    # `unk_id` is required, although with byte fallback it is never used
    state["model"] |= {
        "vocab": [*specials, *([byte, last] for byte in BYTES), *learnt],
        "byte_fallback": True,
        "unk_id": SPECIAL_TOKENS.index(PAD),
    }
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _finish(tokenizer, context=None)


def _every_word_twice(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, then each distinct word once more with a mark after it.

    The library proposes a piece only if it occurs in two different words, so a word that is part of no other (" and")
    would never become a piece, however frequent (docs/decisions/0014 has the measurement).
    """
    words: set[str] = set()
    for text in texts:
        words.update(_LETTERS.findall(text))
        yield text
    for word in sorted(words):
        yield word + MARK


_LETTERS = re.compile(r" ?[^\W\d_]+")


def largest_alphabet(vocab_size: int) -> int:
    """Return the number of characters that may be Unigram pieces: half of what bytes and special tokens leave.

    Rarer ones are encoded as bytes, or a text in many scripts would fill the vocabulary with letters.
    """
    return max(1, (vocab_size - MIN_BPE) // 2)


def byte_tokenizer(*, context: int | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are the 256 bytes, after the special tokens: 262 entries, nothing to train."""
    vocabulary = {
        token: index for index, token in enumerate([*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, context=context)


def _refuse_below(smallest: int, vocab_size: int, *, what: str) -> None:
    if vocab_size < smallest:
        raise InvalidInput(
            f"A vocabulary of {vocab_size} is too small for {what}.",
            remedy=f"Use at least {smallest}: 256 bytes and {len(SPECIAL_TOKENS)} special tokens"
            + ("." if smallest == MIN_BPE else ", and room for letters."),
            field="vocab_size",
        )


def _finish(tokenizer: Tokenizer, *, context: int | None) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
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
    """Encode texts without special tokens. Text that spells a special token is split like any other text."""
    if not texts:
        return []
    if tokenizer.is_fast:  # the same without offsets and masks, in four fifths of the time
        backend = tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        if not backend.encode_special_tokens:
            backend.encode_special_tokens = True
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    encoded = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def encode_plain_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a text that a network continues: the one rule of evaluation, generation and endpoints, and of
    lm-evaluation-harness.

    Special tokens are the tokenizer's own choice, and its begin token stands there once. An empty text is the begin
    token, or else the end token, if there is one.
    """
    special = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
    ids: list[int] = list(tokenizer.encode(text, add_special_tokens=special, verbose=False))
    first = next((token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None), None)
    return ids or ([] if first is None else [int(first)])


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding token; it is never attended to nor trained on."""
    return int(next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0))


def count_token_bytes(tokenizer: PreTrainedTokenizerBase, *, vocab_size: int | None = None) -> npt.NDArray[np.int32]:
    """Return the bytes of text of each token; 0 for special tokens.

    Shape (vocab_size,) (default: the tokenizer's). The sum over the tokens of a text is the text's length in UTF-8
    bytes, except for tokenizers that change the text (a space put before the first word).
    """
    size = len(tokenizer)
    lengths = np.zeros(max(size, vocab_size or size), dtype=np.int32)
    pieces = tokenizer.convert_ids_to_tokens(list(range(size)))
    form = piece_form(tokenizer)
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for index, piece in enumerate(pieces):
        if piece is not None and index not in special:
            lengths[index] = len(form.bytes_of(piece))
    return lengths


def lost_bytes(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Return the bytes of a text that no token represents, unseen by the network; 0 if all can be written."""
    if _writes_everything(tokenizer):
        return 0
    ids = encode_texts(tokenizer, [text])[0]
    return max(0, len(text.encode()) - int(count_token_bytes(tokenizer)[ids].sum()))


RARE = "\x07é漢\U0001f600\u200bΩß\u0915ᚠ" + "".join(map(chr, range(32, 127)))


def _writes_everything(tokenizer: PreTrainedTokenizerBase) -> bool:
    known: bool | None = tokenizer.__dict__.get("_roundhouse_writes_everything")
    if known is None:
        ids = encode_texts(tokenizer, [RARE])[0]
        known = int(count_token_bytes(tokenizer)[ids].sum()) >= len(RARE.encode())
        tokenizer.__dict__["_roundhouse_writes_everything"] = known
    return known


def piece_form(tokenizer: PreTrainedTokenizerBase) -> PieceForm:
    """Return the encoding of a tokenizer's pieces."""
    decoder = tokenizer.backend_tokenizer.decoder
    return PieceForm.of_decoder("" if decoder is None else decoder.__getstate__().decode())


_BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}


def label_tokens(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> list[str]:
    """Return the text of each token as within a sentence, including its leading space.

    Bytes that are not a whole character are written `\\xe2`; a row of the network's vocabulary without a token of the
    tokenizer is written `[51200]`.
    """
    indices = [int(index) for index in ids]
    known = len(tokenizer)
    pieces = dict(
        zip(indices, tokenizer.convert_ids_to_tokens([index if index < known else 0 for index in indices]), strict=True)
    )
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    byte_level = _is_byte_level(tokenizer)
    labels = []
    for index in indices:
        piece = pieces[index] if index < known else None
        if piece is None:
            labels.append(f"[{index}]")
        elif index in added:
            labels.append(piece)
        else:
            labels.append(_byte_text(piece) if byte_level else _piece_text(piece))
    return labels


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
    return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()


def _byte_text(piece: str) -> str:
    if any(letter not in _BYTE_OF for letter in piece):
        return piece  # an added token, written as it is
    return bytes(_BYTE_OF[letter] for letter in piece).decode("utf-8", errors="backslashreplace")


def _piece_text(piece: str) -> str:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)]).decode("utf-8", errors="backslashreplace")
    return piece.replace("\u2581", " ")
