"""`roundhouse generate`: complete a prompt."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.cli.waiting import wait_for_job
from backend.domain.jobs.results import GenerateResult
from backend.services.checkpoints.generation import launch_completions, read_completions
from backend.services.context import LOCAL

app = CommandGroup()


@app.command("generate")
def generate(
    checkpoint: Annotated[str, typer.Option(help="Name or id, or a folder that holds one.")],
    prompt: Annotated[str, typer.Option(help="The prompt.")],
    system: Annotated[str, typer.Option(help="A system message before it.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Longest completion, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 decodes greedily.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling: share of probability to sample from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed and prompt give the same text.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the raw text, without the chat template.")] = False,
) -> None:
    """Complete a prompt with a checkpoint. A checkpoint with a chat template answers it as a user's message."""
    ctx = get_context()
    messages = [{"role": "system", "content": system}] if system else []
    job = launch_completions(
        ctx,
        checkpoint=checkpoint,
        prompts=[[*messages, {"role": "user", "content": prompt}]],
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        chat="off" if raw else "auto",
        person=LOCAL,
    )
    job = wait_for_job(ctx, job.id)
    answer, result = read_completions(ctx, job.id)[0], job.result_as(GenerateResult)
    emit(
        {**answer, "used_chat_template": result.used_chat_template if result else None},
        text=answer["text"],
    )
