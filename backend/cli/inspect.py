"""`roundhouse inspect`: what a checkpoint makes of a text, token by token, and what its weights look like."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit, note, read_text
from backend.cli.waiting import wait_for_job
from backend.domain.checkpoints.inspection_config import ReadingConfig
from backend.errors import InvalidInput
from backend.services.checkpoints.inspection_results import Alternative, ReadingContents
from backend.services.checkpoints.inspections import ReadingView, get_reading, launch_reading
from backend.services.context import LOCAL, Context

app = typer.Typer()

MOST_LISTED = 12


@app.command("inspect")
@command
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="Name or id, or a folder that holds one; a run's name means its newest checkpoint.")],
    text: Annotated[str, typer.Option(help="What to read, as it stands. Without a text the weights are read.")] = "",
    chat: Annotated[Path | None, typer.Option(help="Instead: a JSON file of [{role, content}], read through the chat template.")] = None,
    against: Annotated[str | None, typer.Option(help="A second checkpoint, to see where the two part.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Read the weights, too.")] = False,
    maps: Annotated[bool, typer.Option("--maps", help="With --json: every attention map, [layer][head][query][key].")] = False,
    again: Annotated[bool, typer.Option("--again", help="Read again even if the answer is stored.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show per-token loss, attention, logit lens and weights of a checkpoint. With --against, compare two checkpoints token by token."""
    ctx = get_context()
    config = ReadingConfig(text=text, messages=_messages(chat)) if chat is not None else ReadingConfig(text=text)
    wanted = [config] if config.of_text else []
    if weights or not wanted:
        wanted.append(ReadingConfig())
    data: dict[str, Any] = {}
    lines: list[str] = []
    for one in wanted:
        reading = launch_reading(ctx, checkpoint=checkpoint, config=one, against=against, person=LOCAL, again=again)
        if reading.is_active and reading.job_id:
            wait_for_job(ctx, reading.job_id)
            reading = get_reading(ctx, reading.id)
        elif reading.reused:
            note("The answer was stored; --again reads anew.")
        contents = ReadingContents(ctx, reading)
        data |= text_data(ctx, contents, maps=maps) if one.of_text else weights_data(ctx, contents)
        lines += text_lines(contents) if one.of_text else weights_lines(contents)
    emit(data, as_json=as_json, text="\n".join(lines))


def _messages(file: Path) -> Any:
    try:
        messages = json.loads(read_text(file))
    except ValueError as error:
        raise InvalidInput(f"{file.name} is not JSON: {error}.", field="chat") from error
    if not isinstance(messages, list) or not messages:
        raise InvalidInput(f'{file.name} holds no list of {{"role": ..., "content": ...}}.', field="chat")
    return messages


def _head(ctx: Context, reading: ReadingView) -> dict[str, Any]:
    return {
        "reading": reading.id,
        "checkpoint": reading.checkpoint,
        "against": reading.other,
        "folder": str(ctx.artifacts.path(str(reading.folder))),
    }


def text_data(ctx: Context, contents: ReadingContents, *, maps: bool) -> dict[str, Any]:
    """Return a reading of a text as the command line's JSON."""
    result = contents.reading.result
    return {
        **_head(ctx, contents.reading),
        "facts": result["facts"],
        "loss": result["loss"],
        "tokens": [
            {
                "position": line.position,
                "id": line.id,
                "text": line.text,
                "special": line.special,
                "trained": line.trained,
                "nats": line.surprisal,
                "bits": line.bits,
                "rank": line.rank,
                "probability": None if line.surprisal is None else math.exp(-line.surprisal),
                "expected": _alternatives(line.expected),
            }
            for line in contents.tokens()
        ],
        "next": _alternatives(contents.alternatives()[-1]),
        "attention": _attention_data(contents, maps=maps),
        "lens": _lens_data(contents),
        "pair": _pair_data(contents),
    }


def _alternatives(alternatives: tuple[Alternative, ...]) -> list[dict[str, Any]]:
    return [{"id": one.id, "text": one.text, "probability": one.probability} for one in alternatives]


def _attention_data(contents: ReadingContents, *, maps: bool) -> dict[str, Any]:
    data = dict(contents.reading.result["attention"])
    if data["layers"]:
        for name in ("distance", "entropy", "first", "previous", "self_share"):
            data[name] = contents.array(f"head_{name}").tolist()
        if maps:
            data["maps"] = [contents.attention(layer).tolist() for layer in range(data["layers"])]
    return data


def _lens_data(contents: ReadingContents) -> dict[str, Any]:
    data = dict(contents.reading.result["lens"])
    if data["depths"]:
        ids = contents.array("lens_ids")
        data["texts"] = [[contents.label(token) for token in row] for row in ids]
        data |= {"ids": ids.tolist(), "probability": contents.array("lens_p").tolist(), "kl": contents.array("lens_kl").tolist()}
    return data


def _pair_data(contents: ReadingContents) -> dict[str, Any] | None:
    pair = contents.reading.result.get("pair")
    if pair is None:
        return None
    if not pair["same_vocabulary"]:
        first, other = contents.array("span_first").tolist(), contents.array("span_other").tolist()
        rows = zip(contents.spans, first, other, strict=True)
        return {**pair, "spans": [{"text": text, "first_nats": a, "other_nats": b} for text, a, b in rows]}
    columns = (contents.array(name).tolist() for name in ("kl_pq", "kl_qp", "agree"))
    rows_ = zip(*columns, contents.alternatives(), contents.alternatives(prefix="other_"), strict=True)
    return {
        **pair,
        "after": [
            {"position": place, "kl_pq": pq, "kl_qp": qp, "agree": agree, "first": _alternatives(mine), "other": _alternatives(theirs)}
            for place, (pq, qp, agree, mine, theirs) in enumerate(rows_)
        ],
    }


def weights_data(ctx: Context, contents: ReadingContents) -> dict[str, Any]:
    """Return a reading of weights as the command line's JSON."""
    found: dict[str, Any] = {
        **_head(ctx, contents.reading),
        **contents.reading.result["facts"],
        "tensors": [
            {
                "name": line.name,
                "layer": line.layer,
                "shape": list(line.shape),
                "dtype": line.dtype,
                "values": line.values,
                "mean": line.mean,
                "rms": line.rms,
                "largest": line.largest,
                "zeros": line.zeros,
                "beyond_5_rms": line.beyond,
                "not_finite": line.not_finite,
                "spectral_norm": line.spectral,
                "histogram": line.counts.tolist(),
            }
            for line in contents.tensors()
        ],
        "histogram_edges_in_rms": contents.array("edges").tolist(),
        "outliers": [{"name": name, "why": why} for name, why in contents.outliers],
    }
    if "changes" in contents.reading.result:
        changes = [{"name": line.name, "relative": line.relative, "cosine": line.cosine} for line in contents.changes()]
        found["changes"] = {**contents.reading.result["changes"], "by_tensor": changes, "without_partner": contents.missing}
    return {"weights": found}


def text_lines(contents: ReadingContents) -> list[str]:
    """Return a reading of a text as lines for a terminal."""
    reading, result = contents.reading, contents.reading.result
    loss, facts = result["loss"], result["facts"]
    lines = [f"{reading.checkpoint}: {loss['mean_nats']:.4f} nats per token ({loss['mean_bits']:.3f} bits) over {loss['tokens']} tokens"]
    if facts["cut"]:
        lines.append(f"  only the first {facts['tokens']} of {facts['total_tokens']} tokens were read")
    for line in contents.tokens():
        if line.bits is not None:
            guess = line.expected[0]
            lines.append(f"  {line.bits:8.3f} bits  rank {line.rank:<6} {line.text!r:<20} expected {guess.text!r} {guess.probability:.1%}")
    lines.append("next: " + ", ".join(f"{one.text!r} {one.probability:.1%}" for one in contents.alternatives()[-1][:5]))
    pair = result.get("pair")
    if pair and pair["same_vocabulary"]:
        means = [pair["mean_kl_pq"], pair["mean_kl_qp"]]
        shown = ["infinite" if mean is None else f"{mean:.4f} nats" for mean in means]
        lines.append(f"beside {reading.other}: mean KL {shown[0]} there, {shown[1]} back; the same first choice {pair['agreement']:.0%}")
    elif pair:
        first, other = pair["first"]["bits_per_byte"], pair["other"]["bits_per_byte"]
        lines.append(f"beside {reading.other}: {first:.4f} and {other:.4f} bits per byte ({pair['reason']})")
    return lines


def weights_lines(contents: ReadingContents) -> list[str]:
    """Return a reading of weights as lines for a terminal."""
    result = contents.reading.result
    lines = [f"{contents.reading.checkpoint}: {result['facts']['tensors']} tensors, {result['facts']['values']:,} values"]
    lines += [f"  stands out: {name}: {why}" for name, why in contents.outliers[:MOST_LISTED]] or ["  nothing stands out"]
    changes = result.get("changes")
    if changes and changes["relative"] is not None:
        same = f"{changes['equal']} of {changes['compared']} tensors are equal"
        lines.append(f"  beside {contents.reading.other}: weights moved by {changes['relative']:.4%} of their norm; {same}")
        moved = sorted(contents.changes(), key=lambda line: -line.relative)[:MOST_LISTED]
        lines += [f"    {line.relative:10.4%}  {line.name}" for line in moved if line.relative]
    return lines
