"""`roundhouse tokenizer`: train and compare tokenizers, encode text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, emit, note, read_text
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.data.languages import language_name
from backend.domain.jobs.states import status_word
from backend.domain.json_values import FieldValues
from backend.domain.tokenizers.config import TokenizerConfig
from backend.domain.wording import percent
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.tokenizers.reports import Measure, ReportView, get_report, request_report
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import MAX_TEXT, Tokenization, tokenize
from backend.services.tokenizers.tokenizers import TokenizerView, get_tokenizer, list_tokenizers, train_tokenizer

app = CommandGroup(no_args_is_help=True)


@app.command("train")
@model_options(TokenizerConfig)
def train(
    dataset: Annotated[str, typer.Argument(help="The dataset to train on: NAME or NAME@VERSION.")],
    name: Annotated[str, typer.Option(help="Name of the tokenizer.")],
    *,
    options: FieldValues,
) -> None:
    """Train a tokenizer on a dataset, and wait for it."""
    ctx = get_context()
    queued = train_tokenizer(ctx, name=name, dataset=dataset, config=TokenizerConfig(**options), person=LOCAL)
    assert queued.job_id is not None
    wait_for_job(ctx, queued.job_id)
    done = get_tokenizer(ctx, queued.id)
    emit(tokenizer_data(done), text=_made(done))


@app.command("list")
def list_() -> None:
    """List tokenizers."""
    tokenizers = list_tokenizers(get_context())
    lines = [
        f"{t.name}  {t.kind}  {t.vocab_size or 0:,} entries  {'' if t.is_ready else status_word(t.status)}".rstrip()
        for t in tokenizers
    ]
    emit(
        {"tokenizers": [tokenizer_data(t) for t in tokenizers]},
        text="\n".join(lines) or "No tokenizers yet.",
    )


@app.command("compare")
def compare(
    tokenizers: Annotated[list[str], typer.Argument(help="Names of tokenizers, or of checkpoints.")],
    dataset: Annotated[list[str], typer.Option(help="A dataset to measure on; may be repeated.")],
) -> None:
    """Measure tokenizers on datasets: tokens per word, bytes per token, unknown tokens; by language."""
    ctx = get_context()
    queued = request_report(ctx, tokenizers=tokenizers, datasets=dataset, person=LOCAL)
    assert queued.job_id is not None
    wait_for_job(ctx, queued.job_id)
    done = get_report(ctx, queued.id)
    emit(tokenizer_report_data(done), text="\n".join(_lines(done)))


@app.command("encode")
def encode(
    tokenizer: Annotated[str, typer.Argument(help="Name of a tokenizer, or of a checkpoint.")],
    text: Annotated[
        str | None, typer.Argument(help="The text; read from --file or standard input when left out.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A UTF-8 text file to read the text from.")] = None,
    specials: Annotated[
        bool, typer.Option("--specials", help="Text that spells a special token is that token.")
    ] = False,
) -> None:
    """Encode a text and print its tokens."""
    if text is not None and file is not None:
        raise InvalidInput("A text and a file were given.", remedy="Give one of them.")
    if text is None:
        text = read_text(file) if file else sys.stdin.buffer.read().decode("utf-8", "replace")
    ctx = get_context()
    result = tokenize(ctx, resolve_source(ctx, tokenizer), text, specials=specials)
    if result.cut:
        note(f"The text has {len(text):,} characters; only the first {MAX_TEXT:,} are encoded.")
    emit(encoding_data(result), text="\n".join(f"{token.id}\t{token.text!r}" for token in result.tokens))


def tokenizer_data(tokenizer: TokenizerView) -> dict[str, object]:
    """Return a tokenizer as the command line's JSON."""
    return {
        "tokenizer": tokenizer.name,
        **attributes_of(tokenizer, "id", "kind"),
        "status": str(tokenizer.status),
        **attributes_of(tokenizer, "vocab_size", "dataset"),
        **{key: value for key, value in tokenizer.facts.dump().items() if key != "kind"},
    }


def tokenizer_report_data(report: ReportView) -> dict[str, object]:
    """Return a report as the command line's JSON."""
    return {
        "report": report.id,
        "tokenizers": [entry.model_dump(mode="json", exclude_unset=True) for entry in report.tokenizers],
        "datasets": [entry.model_dump(mode="json", exclude_unset=True) for entry in report.datasets],
        "measures": [
            {"tokenizer": m.tokenizer, "dataset": m.dataset, "language": m.language, **m.values}
            for m in report.measures
        ],
    }


def encoding_data(result: Tokenization) -> dict[str, object]:
    """Return an encoded text as the command line's JSON."""
    return {
        "tokenizer": result.source.name,
        "ids": [token.id for token in result.tokens],
        "tokens": [attributes_of(token, "id", "text", "piece", "kind") for token in result.tokens],
        "num_tokens": len(result.tokens),
        **attributes_of(result, "bytes", "characters", "bytes_per_token", "fertility"),
        "round_trip": result.same,
        "cut": result.cut,
    }


def _made(tokenizer: TokenizerView) -> str:
    rate, requested = tokenizer.facts.bytes_per_token, tokenizer.facts.asked_vocab_size
    text = f"Trained {tokenizer.name}: {tokenizer.vocab_size:,} entries" + (
        f", {rate:.2f} bytes per token." if rate else "."
    )
    if requested and tokenizer.vocab_size and tokenizer.vocab_size < requested:
        text += f" The text yields no more; {requested:,} were requested."
    return text


def _lines(report: ReportView) -> list[str]:
    """Return a line for each measure; for a dataset in one language only the total."""
    single = {entry.name for entry in report.datasets if len(entry.languages) < 2}
    return [_line(measure) for measure in report.measures if measure.language is None or measure.dataset not in single]


def _line(measure: Measure) -> str:
    values = measure.values
    language = "all" if measure.language is None else language_name(measure.language)
    return (
        f"{measure.dataset}  {language}  {measure.tokenizer}  {values['fertility'] or 0:.2f} tokens per word "
        f" {values['bytes_per_token'] or 0:.2f} bytes per token  {percent(values['unknown_share'] or 0, digits=2)}"
        f" unknown  {percent(values['raw_byte_share'] or 0, digits=2)} bytes of characters"
    )
