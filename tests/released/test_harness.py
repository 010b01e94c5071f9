"""The adapter against the harness's own Hugging Face class, a plain loop, and a local task."""

import itertools
import json

import pytest
import torch
from flat import flat_config
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from hybrid.models.hybrid_lm import HybridLM
from hybrid.released.harness import Harness, byte_tokenizer, read_tokenizer

SMALL = {"vocab_size": 256, "hidden_size": 32, "mlp_size": 48, "attn_heads": 2, "init_std": 0.3}
TEXT = "The grass is green. The sky is blue. The sun is yellow. Here we go."


def drawn(layout: str, mixer: str = "gated_deltanet", **more) -> HybridLM:
    torch.manual_seed(0)
    heads = {"num_heads": 2, "head_k_dim": 8, "head_v_dim": 8} if mixer == "gated_deltanet" else more
    model = HybridLM(flat_config(layout, mixer, **SMALL, **heads))
    # The most probable byte is then a character, so that generated text goes on and can be read back.
    with torch.no_grad():
        model.lm_head.weight[128:] = 0
        model.lm_head.weight[0] = 0
    return model


def as_llama(ours: HybridLM):
    """A full-attention HybridLM as the class of another library, weight by weight."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = ours.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.hidden_size,
            intermediate_size=c.mlp.size,
            num_hidden_layers=c.depth,
            num_attention_heads=c.attention.num_heads,
            rms_norm_eps=c.norm_eps,
            rope_theta=c.attention.rotary.theta,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    names = {"embeddings": "embed_tokens", "attn_norm": "input_layernorm", "attn": "self_attn"}
    names |= {"mlp_norm": "post_attention_layernorm"}
    renamed = {
        ".".join(names.get(part, part) for part in name.split(".")): tensor
        for name, tensor in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed, strict=True)
    return theirs.eval()


@pytest.fixture(scope="module")
def pair():
    """The adapter and the harness's own class over the same weights, 64 tokens of context each."""
    from lm_eval.models.huggingface import HFLM

    ours = drawn("FF")
    witness = HFLM(
        pretrained=as_llama(ours),
        backend="causal",
        tokenizer=byte_tokenizer(),
        max_length=64,
        batch_size=1,
        device="cpu",
    )
    return Harness(ours, byte_tokenizer(), max_length=64, batch_size=3), witness


def ask(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


def test_scores_are_those_of_the_harnesss_own_class(pair):
    ours, witness = pair
    # What a greedy continuation looks like, so that some of the answers are greedy ones.
    (greedy,) = witness.generate_until(ask("generate_until", ("The sky", {"max_gen_toks": 4, "until": []})))
    requests = ask(
        "loglikelihood",
        ("The sky", " is blue"),
        ("The sky", greedy),
        ("The sky ", "is blue"),
        ("", "no context"),
        ("a", "b"),
        (TEXT * 2, " cut on the left"),
        ("\0The sky", " is blue"),
    )
    found, expected = ours.loglikelihood(requests), witness.loglikelihood(requests)
    torch.testing.assert_close([s for s, _ in found], [s for s, _ in expected], rtol=1e-5, atol=1e-4)
    assert [flag for _, flag in found] == [flag for _, flag in expected]
    assert {flag for _, flag in found} == {True, False}
    assert found[0][0] == pytest.approx(found[2][0], abs=1e-4)


def test_whole_texts_are_those_of_the_harnesss_own_class(pair):
    ours, witness = pair
    requests = ask("loglikelihood_rolling", (TEXT,), ("short",), (TEXT * 3,))
    found, expected = ours.loglikelihood_rolling(requests), witness.loglikelihood_rolling(requests)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_generated_text_is_that_of_the_harnesss_own_class(pair):
    ours, witness = pair
    (free,) = ours.generate_until(ask("generate_until", (TEXT, {"max_gen_toks": 24, "until": []})))
    assert len(free) > 8
    stops = [[], [free[4:6]], [free[6], free[3]], "unlikely"]
    prompts = [TEXT, TEXT[:9], TEXT[9:18], TEXT[:20], TEXT * 2]
    requests = ask(
        "generate_until",
        *(
            (prompt, {"until": stop, "max_gen_toks": 24, "do_sample": False, "temperature": 0.0})
            for prompt, stop in itertools.product(prompts, stops)
        ),
    )
    found = ours.generate_until(requests)
    assert found == witness.generate_until(requests)
    assert found[1] == free[: free.index(free[4:6])] and found[0] == free


def test_text_after_the_end_token_is_dropped():
    harness = Harness(drawn("L"), byte_tokenizer(), max_length=32)
    assert harness._text([72, 105, 0, 33, 33], []) == "Hi"
    assert harness._text([72, 105, 33, 0], ["i", "H!"]) == "H"


@pytest.mark.parametrize("mixer", ["gated_deltanet", "hgrn2"])
def test_scores_of_a_hybrid_are_those_of_a_plain_loop(mixer):
    model = drawn("LLF", mixer, num_heads=4)
    requests = ask("loglikelihood", (TEXT, " And back."), ("One", " two"), (TEXT[:30], "x"))
    found = Harness(model, byte_tokenizer(), max_length=256, batch_size=2).loglikelihood(requests)
    for (score, greedy), request in zip(found, requests, strict=True):
        context, continuation = (text.encode() for text in request.args)
        total, state, best = 0.0, None, True
        for last, token in itertools.pairwise([0, *context, *continuation]):
            logits, _, state, _ = model(torch.tensor([[last]]), state=state)
            total += logits[0, -1].log_softmax(-1)[token].item()
            best &= logits.argmax().item() == token
            context, total, best = (context[1:], 0.0, True) if context else (context, total, best)
        assert score == pytest.approx(total, abs=1e-3)
        assert greedy == best


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text("abc.é", min_size=1, max_size=12), min_size=3, max_size=3), st.integers(1, 4))
def test_the_chain_rule_holds_whatever_the_batch(parts, batch_size):
    context, first, second = parts
    harness = Harness(MODEL, byte_tokenizer(), max_length=128, batch_size=batch_size)
    whole, head, tail = harness.loglikelihood(
        ask("loglikelihood", (context, first + second), (context, first), (context + first, second)),
        disable_tqdm=True,
    )
    assert whole[0] == pytest.approx(head[0] + tail[0], abs=1e-3)
    assert whole[1] == (head[1] and tail[1])


MODEL = drawn("LF")


def test_cut_texts_are_counted():
    harness = Harness(MODEL, byte_tokenizer(), max_length=16)
    harness.loglikelihood(ask("loglikelihood", ("short", "!"), (TEXT, "!")))
    assert harness.truncated == 1
    harness.generate_until(ask("generate_until", (TEXT, {"max_gen_toks": 4}), ("short", {"max_gen_toks": 4})))
    assert harness.truncated == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True, "temperature": 0.7}, "must be greedy; got do_sample"),
        ({"num_beams": 4}, r"of \['do_sample', .*; got \['num_beams'\]"),
        ({"max_gen_toks": 64}, "max_gen_toks must be below max_length 64; got 64"),
    ],
)
def test_generation_that_is_not_done_is_refused_by_name(options, message):
    harness = Harness(MODEL, byte_tokenizer(), max_length=64)
    with pytest.raises(ValueError, match=message):
        harness.generate_until(ask("generate_until", ("a", options)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="max_length must be at least 1; got 0"):
        Harness(MODEL, byte_tokenizer(), max_length=0)
    small = HybridLM(flat_config("L", "hgrn", vocab_size=100, hidden_size=32))
    with pytest.raises(ValueError, match="the tokenizer has 256 ids; the model holds 100"):
        Harness(small, byte_tokenizer(), max_length=8)
    with pytest.raises(ValueError, match="a continuation has 9 tokens, more than max_length 8"):
        Harness(MODEL, byte_tokenizer(), max_length=8).loglikelihood(ask("loglikelihood", ("a", "b" * 9)))


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_byte_tokens_are_bytes(text):
    tokens = TOKENIZER.encode(text)
    assert tokens == [0, *text.encode()]
    assert TOKENIZER.decode(tokens[1:], skip_special_tokens=False) == text


TOKENIZER = byte_tokenizer()


def test_a_tokenizer_is_read_from_its_folder(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gated_deltanet"}))
    assert read_tokenizer(tmp_path).encode("Hé") == [0, *"Hé".encode()]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer\.json; name a tokenizer"):
        read_tokenizer(tmp_path)
