"""The numbers of an inspection: against hand computation, a second implementation, and what must hold in every
family.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from backend.domain.checkpoints.inspection import InspectedMessage, InspectionConfig
from backend.errors import InvalidInput, JobFailed
from jobs.evaluation.inspection.network import lens_logits, run_network
from jobs.evaluation.inspection.statistics import (
    divergence,
    head_statistics,
    lens_statistics,
    pair_statistics,
    token_statistics,
)
from jobs.evaluation.inspection.text import Passage, align_losses, encode_passage, scored_bytes, why_not_same_vocabulary
from jobs.modeling.chat import encode_chat
from jobs.modeling.loglikelihood import rolling_nll
from jobs.modeling.tokenizers import byte_tokenizer, encode_texts, label_tokens, train_bpe
from tests.support.networks.inspection_networks import MAKERS, VOCAB, make_network
from tests.support.networks.serving_networks import make_byte_fallback_tokenizer
from tests.support.training_rooms import make_stories

TEXT = "The miller's cat sat by the weir, é."
IDS = [0, *encode_texts(byte_tokenizer(), [TEXT])[0]]


@pytest.mark.parametrize("family", MAKERS)
def test_in_every_family_rows_sum_to_one_and_the_last_depth_is_the_network_s_own_answer(family: str) -> None:
    network = make_network(family)
    with torch.inference_mode():
        own = network(inputs := torch.tensor([IDS], device=network.device)).logits[0].float().cpu()
    seen = run_network(network, IDS)
    assert torch.allclose(seen.logits, own, atol=1e-4)
    assert len(seen.attention) == 3
    heads = head_statistics(seen.attention)
    assert heads.row_error < 1e-5
    assert heads.distance.shape == (3, 4)
    for maps in seen.attention:
        assert float(maps.triu(1).abs().max()) == 0  # nothing looks ahead
    lens = lens_statistics(seen.logits, lens_logits(network, IDS, seen), IDS)
    assert lens.error == pytest.approx(0, abs=1e-5)
    assert lens.kl.shape == (4, len(IDS))
    assert lens.kl[-1].max() < 1e-8
    assert lens.kl[0].mean() > 0.05  # the embedding alone does not know the answer
    assert (lens.top_ids[-1] == own.argmax(-1).numpy()).all()
    with torch.inference_mode():  # the blocks are their own again
        assert torch.allclose(network(inputs).logits[0].float().cpu(), own, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "gemma3", "qwen3_moe"])
def test_token_losses_sum_to_the_log_likelihood_of_the_text(family: str) -> None:
    network, tokenizer = make_network(family), byte_tokenizer()
    passage = encode_passage(tokenizer, InspectionConfig(text=TEXT), longest=96)
    tokens = token_statistics(run_network(network, passage.ids).logits, passage.ids)
    (whole,) = rolling_nll(network, tokenizer, [TEXT], window=96)
    assert passage.ids[0] == tokenizer.bos_token_id
    assert math.isnan(tokens.surprisal[0])
    assert float(np.nansum(tokens.surprisal)) == pytest.approx(whole.sum_nll, rel=1e-5)
    assert whole.tokens == np.isfinite(tokens.surprisal).sum()
    assert scored_bytes(tokenizer, passage, vocab_size=VOCAB, text=TEXT) == whole.bytes == len(TEXT.encode())


@pytest.mark.parametrize("text", ["ab", "ab a \U0001f600", "ab" * 200])
def test_the_space_that_a_tokenizer_puts_before_a_text_is_no_byte_of_it(text: str) -> None:
    """Bits per byte of “Once” were a fifth too few."""
    tokenizer = make_byte_fallback_tokenizer()
    passage = encode_passage(tokenizer, InspectionConfig(text=text), longest=300)
    assert tokenizer.convert_ids_to_tokens(passage.ids)[passage.num_prefix] == "▁"
    seen = text[: passage.ends[-1]] if passage.is_cut else text
    assert scored_bytes(tokenizer, passage, vocab_size=300, text=text) == len(seen.encode())


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "deepseek_v3"])
def test_token_losses_are_those_that_transformers_and_torch_compute(family: str) -> None:
    network = make_network(family)
    inputs = torch.tensor([IDS], device=network.device)
    with torch.inference_mode():
        output = (
            network(inputs, labels=inputs, output_router_logits=False)
            if family == "mixtral"
            else network(inputs, labels=inputs)
        )
    surprisal = token_statistics(run_network(network, IDS).logits, IDS).surprisal[1:]
    assert surprisal.mean() == pytest.approx(float(output.loss), rel=1e-5)
    each = torch.nn.functional.cross_entropy(output.logits[0, :-1].float(), inputs[0, 1:], reduction="none").cpu()
    np.testing.assert_allclose(surprisal, each.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "layers"), [("mistral", [0, 1, 2]), ("gemma3", [0, 2])])
def test_a_sliding_window_shows_in_the_map(family: str, layers: list[int]) -> None:
    seen = run_network(make_network(family), IDS)
    back = torch.arange(len(IDS)).unsqueeze(-1) - torch.arange(len(IDS))
    for layer in layers:
        assert float(seen.attention[layer][:, back >= 8].abs().max()) == 0
    if family == "gemma3":
        assert float(seen.attention[1][:, back >= 8].max()) > 0


def test_attention_of_one_layer_is_what_the_paper_s_formula_gives() -> None:
    """softmax(q k / sqrt(d)) with rotary positions (Su et al. 2021, equation 34), worked out in numpy."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        initializer_range=0.6,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )
    network = LlamaForCausalLM(config).eval()
    ids = [3, 1, 4, 1, 5]
    (maps,) = run_network(network, ids).attention
    weights = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in network.named_parameters()}
    hidden = weights["model.embed_tokens.weight"][ids]
    hidden = (
        hidden
        / np.sqrt((hidden**2).mean(-1, keepdims=True) + config.rms_norm_eps)
        * weights["model.layers.0.input_layernorm.weight"]
    )

    def rotated(vectors: np.ndarray) -> np.ndarray:
        angles = np.outer(np.arange(len(ids)), 100.0 ** (-np.arange(2) / 2))
        left, right = vectors[:, :2], vectors[:, 2:]
        return np.concatenate(
            [left * np.cos(angles) - right * np.sin(angles), right * np.cos(angles) + left * np.sin(angles)], axis=-1
        )

    keys = rotated(hidden @ weights["model.layers.0.self_attn.k_proj.weight"].T)
    queries = hidden @ weights["model.layers.0.self_attn.q_proj.weight"].T
    for head in range(2):
        scores = rotated(queries[:, 4 * head : 4 * head + 4]) @ keys.T / 2.0
        scores[np.triu_indices(5, 1)] = -np.inf
        expected = np.exp(scores - scores.max(-1, keepdims=True))
        expected /= expected.sum(-1, keepdims=True)
        np.testing.assert_allclose(maps[head].numpy(), expected, atol=1e-5)


def test_head_figures_of_known_maps() -> None:
    size = 5
    previous = torch.zeros(size, size)
    previous[0, 0] = 1
    previous[torch.arange(1, size), torch.arange(size - 1)] = 1
    uniform = torch.tril(torch.ones(size, size))
    uniform /= uniform.sum(-1, keepdim=True)
    heads = head_statistics([torch.stack([previous, uniform]), torch.eye(size).unsqueeze(0)])
    assert heads.distance[0].tolist() == pytest.approx([1.0, np.mean([row / 2 for row in range(1, size)])])
    assert heads.entropy[0].tolist() == pytest.approx(
        [0.0, np.mean([math.log(row + 1) for row in range(1, size)])], abs=1e-6
    )
    assert heads.previous[0, 0] == 1
    assert heads.self_share[1, 0] == 1
    assert math.isnan(heads.distance[1, 1])  # a layer with one head beside a layer with two
    assert heads.row_error < 1e-6


def test_divergence_is_scipy_s_and_nothing_for_equal_networks() -> None:
    torch.manual_seed(1)
    p, q = torch.randn(6, 50) * 3, torch.randn(6, 50) * 3
    left, right = p.double().softmax(-1).numpy(), q.double().softmax(-1).numpy()
    np.testing.assert_allclose(divergence(p, q).numpy(), rel_entr(left, right).sum(-1), rtol=1e-9)
    pair = pair_statistics(p, q)
    torchs = torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(pair.kl_pq, torchs.numpy(), rtol=1e-4)
    np.testing.assert_allclose(pair.kl_pq, rel_entr(left, right).sum(-1), rtol=1e-6)
    np.testing.assert_allclose(pair.kl_qp, rel_entr(right, left).sum(-1), rtol=1e-6)
    np.testing.assert_array_equal(pair.agree, left.argmax(-1) == right.argmax(-1))
    same = pair_statistics(p, p)
    assert same.kl_pq.max() == same.kl_qp.max() == 0
    assert same.agree.all()
    p[0, 3] = -math.inf  # a token that one of them rules out
    assert math.isfinite(float(divergence(p, q)[0]))
    assert math.isinf(float(divergence(q, p)[0]))


def test_a_padded_vocabulary_is_compared_over_the_shared_rows() -> None:
    torch.manual_seed(2)
    p = torch.randn(3, 10)
    assert pair_statistics(p, torch.cat([p, torch.randn(3, 2)], dim=-1)).kl_pq.max() < 1e-9


def test_alternatives_ranks_and_entropy_of_a_known_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    tokens = token_statistics(logits, [2, 1], count=2)
    assert tokens.rank.tolist() == [0, 2]
    assert tokens.surprisal[1] == pytest.approx(-math.log(0.3))
    assert tokens.top_ids.tolist() == [[0, 1], [2, 0]]
    np.testing.assert_allclose(tokens.top_p, [[0.5, 0.3], [0.8, 0.1]], rtol=1e-6)
    assert tokens.entropy[0] == pytest.approx(-sum(x * math.log(x) for x in (0.5, 0.3, 0.2)))


def test_a_conversation_is_read_as_chat_renders_it() -> None:
    tokenizer = byte_tokenizer()
    messages = (InspectedMessage(content="Hi"), InspectedMessage(role="assistant", content="Yes."))
    passage = encode_passage(tokenizer, InspectionConfig(messages=messages), longest=96)
    ids, mask = encode_chat(tokenizer, [message.model_dump() for message in messages])
    assert (passage.ids, passage.trained) == (ids, mask)
    assert sum(passage.trained or []) == len("Yes.") + 1


def test_a_text_that_is_too_long_is_cut_and_one_that_is_too_short_refused() -> None:
    tokenizer = byte_tokenizer()
    passage = encode_passage(tokenizer, InspectionConfig(text="x" * 500), longest=96)
    assert (len(passage.ids), passage.total, passage.is_cut) == (96, 501, True)
    assert len(encode_passage(tokenizer, InspectionConfig(text="x" * 500), longest=4096).ids) == 256
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(InvalidInput, match="single token"):
        encode_passage(tokenizer, InspectionConfig(text="x"), longest=96)


def test_a_network_without_attention_says_so_and_one_that_computes_nan_too() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4)).eval()
    seen = run_network(mamba, IDS)
    assert seen.attention == []
    assert "mamba" in seen.no_attention
    assert lens_statistics(seen.logits, lens_logits(mamba, IDS, seen), IDS).error == pytest.approx(0, abs=1e-5)
    broken = make_network("llama")
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0] = math.nan
    with pytest.raises(JobFailed, match="not finite"):
        run_network(broken, IDS)


@pytest.fixture(scope="module")
def merges() -> Any:
    return train_bpe(make_stories(100), vocab_size=300)


def test_labels_show_the_text_and_the_bytes_of_partial_characters(merges: Any) -> None:
    ids = encode_texts(merges, ["Mira é"])[0]
    labels = label_tokens(merges, [merges.bos_token_id, *ids, 9_999])
    assert labels[0] == merges.bos_token
    assert labels[-1] == "[9999]"
    assert "".join(labels[1:-1]) == "Mira \\xc3\\xa9"


def test_losses_of_unlike_vocabularies_are_summed_over_the_same_text(merges: Any) -> None:
    text, plain = "Mira found a lamp. é!", byte_tokenizer()
    assert why_not_same_vocabulary(plain, byte_tokenizer()) == ""
    assert "262 tokens and 300" in why_not_same_vocabulary(plain, merges)
    config = InspectionConfig(text=text)
    passages = [encode_passage(tokenizer, config, longest=96) for tokenizer in (plain, merges)]
    nats = [[math.nan, *(float(i) for i in range(1, len(passage.ids)))] for passage in passages]
    spans = align_losses(passages[0], passages[1], nats[0], nats[1], num_characters=len(text))
    assert (spans[0].start, spans[-1].end) == (0, len(text))
    # every token of the coarser one, but é is two tokens and one letter
    assert len(spans) == len(passages[1].ids) - 1 - 1
    for side, values in zip(("first", "other"), nats, strict=True):
        assert sum(getattr(span, side) for span in spans) == pytest.approx(np.nansum(values))


def test_an_unscored_first_token_is_left_out_of_both_sums() -> None:
    first = Passage([7, 8, 9], 0, 3, None, [1, 2, 4])  # nothing before it: token 7, which ends at 1, has no loss
    other = Passage([0, 5, 6], 1, 3, None, [0, 2, 4])
    (span,) = align_losses(first, other, [math.nan, 1.0, 2.0], [math.nan, 10.0, 20.0], num_characters=4)
    assert (span.start, span.end, span.first, span.other) == (2, 4, 2.0, 20.0)
    with pytest.raises(InvalidInput, match="never end a token"):
        align_losses(
            first, Passage([0, 5], 1, 2, None, [0, 3]), [math.nan, 1.0, 2.0], [math.nan, 1.0], num_characters=3
        )
