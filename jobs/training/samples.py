"""Sample completions during training with a separate random generator, so that sampling does not change the run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.training.config import RunConfig
from jobs.modeling.chat import encode_prompt

TEMPERATURE = 0.8


def sample_completion(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    *,
    max_tokens: int,
    context: int,
    seed: int,
) -> str:
    """Sample a completion of `ids` at temperature 0.8, up to the end token, `max_tokens` or the context; return its
    text.

    The network must be in evaluation mode, and the caller switches gradients off. The same seed gives the same draws.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    step_input = torch.tensor([list(ids)[-(context - 1) :]], device=device)
    cache, completion = None, []
    for _ in range(min(max_tokens, context - step_input.shape[1])):
        output = model(input_ids=step_input, cache=cache, use_cache=True, logits_to_keep=1)
        cache = output.cache
        probabilities = (output.logits[0, -1].float().cpu() / TEMPERATURE).softmax(-1)
        token = int(torch.multinomial(probabilities, 1, generator=generator))
        if token == tokenizer.eos_token_id:
            break
        completion.append(token)
        step_input = torch.tensor([[token]], device=device)
    text: str = tokenizer.decode(completion, skip_special_tokens=True)
    return text


def encode_sample_prompts(tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> list[tuple[str, list[int]]]:
    """Return a run's sample prompts with their token ids; none for objective reward, whose network writes none."""
    if not config.objective.facts.writes:
        return []
    is_chat = not config.objective.pretrains
    return [(prompt, encode_sample_prompt(tokenizer, prompt, chat=is_chat)) for prompt in config.sample_prompts]


def encode_sample_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, *, chat: bool) -> list[int]:
    """Encode a prompt as a user's message, or as the beginning of a text."""
    if chat:
        return encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False, verbose=False)
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*first, *ids] or [tokenizer.eos_token_id or 0]
