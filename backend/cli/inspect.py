"""`roundhouse inspect`: token losses, attention, logit lens and weights of a checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit, note, read_text
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.checkpoints.inspection import InspectionConfig
from backend.domain.wording import percent
from backend.errors import InvalidInput
from backend.services.checkpoints.inspections import (
    Alternative,
    InspectionResults,
    InspectionView,
    get_inspection,
    launch_inspection,
)
from backend.services.context import LOCAL, Context

app = CommandGroup()

MAX_LISTED = 12


@app.command("inspect")
def inspect(
    checkpoint: Annotated[
        str, typer.Argument(help="Name or id, or a folder that holds one; a run's name means its newest checkpoint.")
    ],
    text: Annotated[str, typer.Option(help="Raw text to analyze. Without a text the weights are analyzed.")] = "",
    chat: Annotated[
        Path | None, typer.Option(help="Instead: a JSON file of [{role, content}], rendered with the chat template.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="A second checkpoint to compare with.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Analyze the weights, too.")] = False,
    maps: Annotated[
        bool, typer.Option("--maps", help="With --json: every attention map, by layer, head, query and key.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Analyze again even if the result is stored.")] = False,
) -> None:
    """Show per-token loss, attention, logit lens and weights of a checkpoint. With --against, compare two checkpoints
    token by token.
    """
    ctx = get_context()
    config = InspectionConfig(text=text, messages=_messages(chat)) if chat is not None else InspectionConfig(text=text)
    configs = [config] if config.of_text else []
    if weights or not configs:
        configs.append(InspectionConfig())
    data: dict[str, object] = {}
    lines: list[str] = []
    for one in configs:
        inspection = launch_inspection(
            ctx, checkpoint=checkpoint, config=one, against=against, person=LOCAL, again=again
        )
        if inspection.is_active and inspection.job_id:
            wait_for_job(ctx, inspection.job_id)
            inspection = get_inspection(ctx, inspection.id)
        elif inspection.reused:
            note("Showing the stored inspection; --again computes it again.")
        results = InspectionResults(ctx, inspection)
        data |= text_data(ctx, results, maps=maps) if one.of_text else weights_data(ctx, results)
        lines += text_lines(results) if one.of_text else weights_lines(results)
    emit(data, text="\n".join(lines))


def _messages(file: Path) -> Any:
    try:
        messages = json.loads(read_text(file))
    except ValueError as error:
        raise InvalidInput(f"{file.name} is not JSON: {error}.", field="chat") from error
    if not isinstance(messages, list) or not messages:
        raise InvalidInput(f'{file.name} holds no list of {{"role": ..., "content": ...}}.', field="chat")
    return messages


def _head(ctx: Context, inspection: InspectionView) -> dict[str, object]:
    return {
        "inspection": inspection.id,
        "checkpoint": inspection.checkpoint,
        "against": inspection.other,
        "folder": str(ctx.artifacts.path(str(inspection.folder))),
    }


def text_data(ctx: Context, results: InspectionResults, *, maps: bool) -> dict[str, object]:
    """Return the inspection of a text as JSON of the command line."""
    result = results.inspection.result
    return {
        **_head(ctx, results.inspection),
        "facts": result["facts"],
        "loss": result["loss"],
        "tokens": [
            {
                **attributes_of(line, "position", "id", "text", "special", "trained"),
                "nats": line.surprisal,
                **attributes_of(line, "bits", "rank"),
                "probability": None if line.surprisal is None else math.exp(-line.surprisal),
                "expected": _alternatives(line.expected),
            }
            for line in results.tokens()
        ],
        "next": _alternatives(results.alternatives()[-1]),
        "attention": _attention_data(results, maps=maps),
        "lens": _lens_data(results),
        "pair": _pair_data(results),
    }


def _alternatives(alternatives: tuple[Alternative, ...]) -> list[dict[str, object]]:
    return [{"id": one.id, "text": one.text, "probability": one.probability} for one in alternatives]


def _attention_data(results: InspectionResults, *, maps: bool) -> dict[str, object]:
    attention = results.inspection.result["attention"]
    data: dict[str, object] = {**attention}
    if attention["layers"]:
        for name in ("distance", "entropy", "first", "previous", "self_share"):
            data[name] = results.array(f"head_{name}").tolist()
        if maps:
            data["maps"] = [results.attention(layer).tolist() for layer in range(attention["layers"])]
    return data


def _lens_data(results: InspectionResults) -> dict[str, object]:
    lens = results.inspection.result["lens"]
    data: dict[str, object] = {**lens}
    if lens["depths"]:
        ids = results.array("lens_ids")
        data["texts"] = [[results.label(token) for token in row] for row in ids]
        data |= {
            "ids": ids.tolist(),
            "probability": results.array("lens_p").tolist(),
            "kl": results.array("lens_kl").tolist(),
        }
    return data


def _pair_data(results: InspectionResults) -> dict[str, object] | None:
    pair = results.inspection.result.get("pair")
    if pair is None:
        return None
    if not pair["same_vocabulary"]:
        first, other = results.array("span_first").tolist(), results.array("span_other").tolist()
        rows = zip(results.spans, first, other, strict=True)
        return {**pair, "spans": [{"text": text, "first_nats": a, "other_nats": b} for text, a, b in rows]}
    columns = (results.array(name).tolist() for name in ("kl_pq", "kl_qp", "agree"))
    rows_ = zip(*columns, results.alternatives(), results.alternatives(prefix="other_"), strict=True)
    return {
        **pair,
        "after": [
            {
                "position": place,
                "kl_pq": pq,
                "kl_qp": qp,
                "agree": agree,
                "first": _alternatives(mine),
                "other": _alternatives(theirs),
            }
            for place, (pq, qp, agree, mine, theirs) in enumerate(rows_)
        ],
    }


def weights_data(ctx: Context, results: InspectionResults) -> dict[str, object]:
    """Return the inspection of weights as JSON of the command line."""
    weights: dict[str, object] = {
        **_head(ctx, results.inspection),
        **results.inspection.result["facts"],
        "tensors": [
            {
                **attributes_of(line, "name", "layer"),
                "shape": list(line.shape),
                **attributes_of(line, "dtype", "values", "mean", "rms", "largest", "zeros"),
                "beyond_5_rms": line.beyond,
                "not_finite": line.not_finite,
                "spectral_norm": line.spectral,
                "histogram": line.counts.tolist(),
            }
            for line in results.tensors()
        ],
        "histogram_edges_in_rms": results.array("edges").tolist(),
        "outliers": [{"name": name, "why": why} for name, why in results.outliers],
    }
    if "changes" in results.inspection.result:
        changes = [{"name": line.name, "relative": line.relative, "cosine": line.cosine} for line in results.changes()]
        weights["changes"] = {
            **results.inspection.result["changes"],
            "by_tensor": changes,
            "without_partner": results.missing,
        }
    return {"weights": weights}


def text_lines(results: InspectionResults) -> list[str]:
    """Return the inspection of a text as lines for a terminal."""
    inspection, result = results.inspection, results.inspection.result
    loss, facts = result["loss"], result["facts"]
    lines = [
        f"{inspection.checkpoint}: {loss['mean_nats']:.4f} nats per token ({loss['mean_bits']:.3f} bits) over"
        f" {loss['tokens']} tokens"
    ]
    if facts["cut"]:
        lines.append(f"  only the first {facts['tokens']} of {facts['total_tokens']} tokens were analyzed")
    for line in results.tokens():
        if line.bits is not None:
            guess = line.expected[0]
            lines.append(
                f"  {line.bits:8.3f} bits  rank {line.rank:<6} {line.text!r:<20} "
                f"expected {guess.text!r} {percent(guess.probability, digits=1)}"
            )
    lines.append(
        "next: "
        + ", ".join(f"{one.text!r} {percent(one.probability, digits=1)}" for one in results.alternatives()[-1][:5])
    )
    pair = result.get("pair")
    if pair and pair["same_vocabulary"]:
        means = [pair["mean_kl_pq"], pair["mean_kl_qp"]]
        shown = ["infinite" if mean is None else f"{mean:.4f} nats" for mean in means]
        lines.append(
            f"against {inspection.other}: mean KL(p‖q) {shown[0]}, KL(q‖p) {shown[1]}; same top token"
            f" {percent(pair['agreement'])}"
        )
    elif pair:
        first, other = pair["first"]["bits_per_byte"], pair["other"]["bits_per_byte"]
        lines.append(f"against {inspection.other}: {first:.4f} and {other:.4f} bits per byte ({pair['reason']})")
    return lines


def weights_lines(results: InspectionResults) -> list[str]:
    """Return the inspection of weights as lines for a terminal."""
    result = results.inspection.result
    lines = [
        f"{results.inspection.checkpoint}: {result['facts']['tensors']} tensors, {result['facts']['values']:,} values"
    ]
    lines += [f"  outlier: {name}: {why}" for name, why in results.outliers[:MAX_LISTED]] or ["  no outliers"]
    changes = result.get("changes")
    if changes and changes["relative"] is not None:
        same = f"{changes['equal']} of {changes['compared']} tensors are equal"
        lines.append(
            f"  against {results.inspection.other}: weights changed by {percent(changes['relative'], digits=4)} of"
            f" their norm; {same}"
        )
        changed = sorted(results.changes(), key=lambda line: -line.relative)[:MAX_LISTED]
        lines += [f"    {percent(line.relative, digits=4):>11}  {line.name}" for line in changed if line.relative]
    return lines
