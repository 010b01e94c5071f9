"""Checkpoints of Hugging Face's own families: the same numbers as transformers, then teachers of hybrids."""

import json
import shutil
import time
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from flat import flat_config
from safetensors.torch import load_file, save_file

from hybrid.checkpoints.checkpoint import CheckpointSpec, load, save
from hybrid.checkpoints.huggingface import FAMILIES, from_huggingface
from hybrid.config import TaskConfig, TrainConfig
from hybrid.conversion import distillation
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec, HybridSpec, Stage, student_config
from hybrid.data.corpus import load_corpus, text_vocab
from hybrid.data.module import TaskData
from hybrid.models import cost
from hybrid.models.hybrid_lm import HybridLM
from hybrid.runs import trainers

SIZES = {
    "vocab_size": 300,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}
"""Five channel pairs turn 6.4, 2.9, 1.3, 0.6 and 0.3 times in 40 tokens: kept, two between, two slowed."""
CASES = {
    "llama3": ("Llama", {"num_key_value_heads": 2, "head_dim": 10, "rope_parameters": LLAMA3}),
    "llama": ("Llama", {"num_key_value_heads": 2, "rms_norm_eps": 0.02} | THETA),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-wide": ("Llama", {"num_key_value_heads": 1, "head_dim": 10} | THETA),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2} | THETA),
    "qwen2-tied": ("Qwen2", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 10, "rms_norm_eps": 0.3} | THETA),
    "qwen3-tied": ("Qwen3", {"num_key_value_heads": 4, "head_dim": 6, "tie_word_embeddings": True}),
}
every_case = pytest.mark.parametrize("case", CASES)


def transformers_class(name: str, kind: str):
    import transformers

    return getattr(transformers, f"{name}{kind}")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A case -> transformers' model, every parameter of it random, and the folder it is saved in."""
    made = {}

    def make(case: str):
        if case not in made:
            name, changes = CASES[case]
            torch.manual_seed(0)
            config = transformers_class(name, "Config")(**SIZES | changes)
            theirs = transformers_class(name, "ForCausalLM")(config).eval()
            with torch.no_grad():
                for parameter_name, parameter in theirs.named_parameters():
                    parameter.normal_(mean=float("norm" in parameter_name), std=0.4)
            folder = tmp_path_factory.mktemp(case)
            theirs.save_pretrained(folder)
            made[case] = theirs, folder
        return made[case]

    return make


def tokens(length: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(length))


@every_case
def test_logits_and_gradients_are_those_of_transformers(checkpoints, case):
    theirs, folder = checkpoints(case)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = load(folder)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert cost.parameters(ours.config) == sum(p.numel() for p in ours.parameters())
    for length in (1, 7, 13):
        torch.testing.assert_close(
            ours(tokens(length)).logits, theirs(tokens(length)).logits, rtol=1e-4, atol=1e-4
        )
    for logits in (ours(tokens(7)).logits, theirs(tokens(7)).logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens(7)[:, 1:].flatten()).backward()
    pairs = {
        "model.embeddings.weight": "model.embed_tokens.weight",
        "model.layers.0.attn.q_proj.weight": "model.layers.0.self_attn.q_proj.weight",
        "model.layers.2.attn.v_proj.weight": "model.layers.2.self_attn.v_proj.weight",
        "model.layers.1.mlp_norm.weight": "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.mlp.down_proj.weight": "model.layers.1.mlp.down_proj.weight",
    }
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name, counterpart in pairs.items():
        assert mine[name].grad.abs().max() > 1e-3
        torch.testing.assert_close(mine[name].grad, other[counterpart].grad, rtol=1e-3, atol=1e-5)
    theirs.zero_grad()


@every_case
def test_pieces_and_decoding_equal_the_full_pass(checkpoints, case):
    theirs, folder = checkpoints(case)
    ours, prompt = load(folder), tokens(7)
    state = ours(prompt[:, :4]).state
    rest = ours(prompt[:, 4:], state=state).logits
    torch.testing.assert_close(rest, ours(prompt).logits[:, 4:], rtol=1e-4, atol=1e-4)
    expected = prompt
    for _ in range(4):
        with torch.no_grad():
            expected = torch.cat([expected, theirs(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(ours.generate(prompt, 4, chunk=3), expected)


@every_case
def test_saved_again_it_is_the_same_model(checkpoints, tmp_path, case):
    ours = load(checkpoints(case)[1])
    hybrid = HybridLM(student_config(ours.config, "LFL", "gated_deltanet"))
    for model in (ours, hybrid):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "saved as model_type")
            save(model, tmp_path)
        again = load(tmp_path)
        assert torch.equal(again(tokens(5)).logits, model(tokens(5)).logits)
        assert cost.parameters(model.config) == sum(p.numel() for p in again.parameters())


def test_shards_are_one_model(checkpoints, tmp_path):
    theirs, folder = checkpoints("qwen3")
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert torch.equal(load(tmp_path)(tokens(5)).logits, load(folder)(tokens(5)).logits)


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3"])
def test_missing_keys_take_the_values_of_the_installed_classes(name):
    cls = transformers_class(name, "Config")
    sizes = SIZES | {"num_attention_heads": 32, "hidden_size": 1024}
    written = cls(**sizes).to_diff_dict()
    assert from_huggingface({"model_type": name.lower()} | sizes) == from_huggingface(written)


def test_configs_of_transformers_4_are_read():
    older = {
        "model_type": "qwen2",
        "rope_theta": 1e6,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "sliding_window": 131_072,
        "max_window_layers": 28,
        "use_sliding_window": False,
        "num_key_value_heads": 2,
    }
    config = from_huggingface(SIZES | older)
    assert config.attention.rotary.theta == 1e6 and config.attention.qkv_bias and config.kv_heads == 2
    with pytest.warns(UserWarning, match="logit_scale"):
        from_huggingface(SIZES | older | {"logit_scale": 2})


def test_a_stretch_is_read_from_either_version_and_its_length_from_the_model_where_it_is_not_named():
    stretch = {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    expected = from_huggingface({"model_type": "llama"} | SIZES | {"rope_parameters": LLAMA3})
    assert expected.attention.rotary.stretch == (8.0, 1.0, 4.0, 40.0)
    older = {"model_type": "llama", "rope_theta": 50.0, "rope_scaling": stretch}
    assert from_huggingface(SIZES | older) == expected
    del stretch["original_max_position_embeddings"]
    assert from_huggingface(SIZES | older | {"max_position_embeddings": 40}) == expected


REFUSED = {
    "llama3 in part": (
        "llama",
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
        "'llama3' needs factor.*missing low_freq_factor, high_freq_factor, original",
    ),
    "llama3 and more": ("llama", {"rope_parameters": LLAMA3 | {"beta": 2}}, "'beta': 2.*allowed: factor"),
    "llama3 turned round": (
        "llama",
        {"rope_parameters": LLAMA3 | {"low_freq_factor": 9.0}},
        r"0 < low < high.*\(8.0, 9.0, 4.0, 40\)",
    ),
    "yarn": ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4}}, "'yarn'.*allowed: default, llama3"),
    "more": ("llama", {"rope_scaling": {"factor": 4}}, "'default' with {'factor': 4}.*allowed: none"),
    "half": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5.*allowed: 1.0"),
    "window": ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True.*allowed: False"),
    "some windows": ("qwen3", {"layer_types": ["sliding_attention"]}, "sliding_attention.*full_attention"),
    "llama window": ("llama", {"sliding_window": 64}, "sliding_window=64.*allowed: None"),
    "bias": ("llama", {"attention_bias": True}, "attention_bias=True.*allowed: False"),
    "activation": ("qwen3", {"hidden_act": "gelu"}, "hidden_act='gelu'.*allowed: 'silu'"),
    "quantised": ("llama", {"quantization_config": {"bits": 4}}, "quantization_config=.*allowed: None"),
    "experts": ("qwen3_moe", {}, "unknown model_type 'qwen3_moe'; allowed: .*llama, qwen2, qwen3"),
    "epsilon": ("llama", {"rms_norm_eps": "1e-6"}, "rms_norm_eps must be a positive number; got '1e-6'"),
    "no depth": ("llama", {"num_hidden_layers": None}, "num_hidden_layers"),
}


@pytest.mark.parametrize(("name", "changes", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_computed_is_refused_by_name(tmp_path, name, changes, said):
    config = {"model_type": name} | SIZES | changes
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(ValueError, match=said):
        load(tmp_path)


def edited(folder, source, change):
    shutil.copytree(source, folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_every_tensor_is_used_once_or_refused_by_name(checkpoints, tmp_path):
    folder = checkpoints("qwen2")[1]
    bias = "model.layers.1.self_attn.k_proj.bias"
    extra = "model.layers.1.self_attn.o_proj.bias"
    changes = {
        f"missing tensors: {bias}": lambda t: t.pop(bias),
        f"no place for: {extra}": lambda t: t.update({extra: torch.zeros(24)}),
        r"k_proj.bias is \(3,\), needs \(12,\)": lambda t: t.update({bias: torch.ones(3)}),
    }
    for said, change in changes.items():
        with pytest.raises(ValueError, match=said):
            load(edited(tmp_path, folder, change))
    tied = checkpoints("qwen2-tied")[1]
    with pytest.raises(ValueError, match=r"is tied to model\.embeddings"):
        load(edited(tmp_path / "tied", tied, lambda t: t.update({"lm_head.weight": torch.ones(300, 24)})))


def test_an_old_table_of_frequencies_is_left_out_if_it_is_the_configs(checkpoints, tmp_path):
    folder = checkpoints("llama")[1]
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    table = torch.tensor([1.0, 50 ** (-1 / 3), 50 ** (-2 / 3)])
    same = load(edited(tmp_path, folder, lambda t: t.update({name: table.bfloat16()})))
    assert torch.equal(same(tokens(3)).logits, load(folder)(tokens(3)).logits)
    with pytest.raises(ValueError, match=name):
        load(edited(tmp_path, folder, lambda t: t.update({name: 2 * table})))


def test_without_a_network_an_absent_checkpoint_is_refused_at_once():
    import huggingface_hub  # noqa: F401  its import is not what is timed

    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"Nobody/None-0\.6B.*HF_HUB_OFFLINE"):
        CheckpointSpec.of("Nobody/None-0.6B", TaskConfig())
    assert time.monotonic() - start < 1


@every_case
def test_open_gates_leave_the_checkpoint_and_its_heads_go_to_the_linear_mixer(checkpoints, case):
    theirs, folder = checkpoints(case)
    teacher = load(folder)
    morphable = Morphable(teacher, "gla")
    logits = morphable(tokens(9), torch.ones(3)).logits
    torch.testing.assert_close(logits, theirs(tokens(9)).logits, rtol=1e-4, atol=1e-4)
    assert len(morphable.carried) == 3 * 4
    head, group = teacher.config.head_dim, 4 // teacher.config.kv_heads
    keys = teacher.model.layers[1].attn.k_proj.weight.split(head)
    copied = morphable.student.model.layers[1].attn.k_proj.weight.split(head)
    assert len(copied) == 4
    assert all(torch.equal(rows, keys[index // group]) for index, rows in enumerate(copied))
    window = Morphable(teacher, "window", 16).hybrid("LFL")
    torch.testing.assert_close(window(tokens(9)).logits, logits, rtol=1e-4, atol=1e-4)


def test_heads_that_a_mixer_cannot_have_are_refused_before_any_work(checkpoints):
    with pytest.raises(ValueError, match=r"hgrn2's keys are its gates: head_k_dim must be .* = 6; got 10"):
        student_config(load(checkpoints("qwen3")[1]).config, "LFL", "hgrn2")


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A text of a few sentences, an empty cache and an empty store."""
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path / "results"))
    text = "\n".join(f"def number_{i}(value): return value + {i * i}" for i in range(80))
    (tmp_path / "text.txt").write_text(text)
    return TaskConfig(
        corpus=str(tmp_path / "text.txt"),
        recall_fraction=0.0,
        seq_len=16,
        pairs=(1,),
        eval_pairs=(1,),
        eval_lengths=(16,),
        eval_sequences=4,
    )


def with_tokenizer(source, folder):
    """A copy of a checkpoint with a tokenizer of 258 ids beside it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    shutil.copytree(source, folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=258, special_tokens=["</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["value number"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder


TRAIN = TrainConfig(steps=3, batch_size=4, warmup=1, eval_every=3, lr=1e-2)


@pytest.mark.parametrize("case", ["llama-tied", "qwen3"])
def test_a_checkpoint_becomes_a_hybrid_on_text_of_its_own_tokenizer(checkpoints, tmp_path, task, case):
    theirs, source = checkpoints(case)
    folder = with_tokenizer(source, tmp_path / "checkpoint")
    teacher = CheckpointSpec.of(folder, task, TRAIN)
    assert teacher.task.tokenizer == str(folder) and text_vocab(teacher.task) == 258
    assert load_corpus(teacher.task).bytes_per_token > 1
    align = AlignSpec(teacher, "gated_deltanet", Stage(TRAIN))
    spec = HybridSpec(align, "LFL", Stage(TRAIN), Stage(TRAIN, seq_len=24), passkeys=None)
    again = trainers.read(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and again.run_id == spec.run_id and spec.root is teacher

    morphable = distillation.aligned(align)
    logits = theirs(tokens(9)).logits
    torch.testing.assert_close(morphable(tokens(9), torch.ones(3)).logits, logits, rtol=1e-4, atol=1e-4)
    data = TaskData(teacher.task, TRAIN, 0)
    untaught = distillation.output_errors(distillation.aligned(replace(align, stage=None)), data)
    taught = distillation.output_errors(morphable, data)
    assert sum(row["error"] for row in taught) < sum(row["error"] for row in untaught)

    measured = distillation.measure(teacher).metrics
    assert measured["parameters"] == sum(p.numel() for p in theirs.parameters())
    result = distillation.convert(spec, progress=False)
    stages = result.metrics["stages"]
    assert [row["stage"] for row in stages] == ["converted", "distill", "finetune"]
    assert "passkey" not in result.metrics and "passkey" not in stages[0]
    assert stages[-1]["loss_bits_per_byte"] < stages[0]["loss_bits_per_byte"]
    whole = replace(spec, layout="FFF", distill=None, finetune=None)
    kept = distillation.convert(whole, progress=False).metrics
    assert kept["loss_bits_per_byte"] == pytest.approx(measured["loss_bits_per_byte"], rel=1e-6)


def test_one_step_of_alignment_lowers_the_loss(checkpoints):
    morphable = Morphable(load(checkpoints("qwen2")[1]), "gated_deltanet")
    lit, batch = distillation.LitAlign(morphable, Stage(TRAIN)), {"input_ids": tokens(13)}
    optimizer = torch.optim.SGD([p for p in morphable.parameters() if p.requires_grad], lr=1e-3)
    before = lit.loss(batch)
    before.backward()
    optimizer.step()
    assert lit.loss(batch) < before


def test_any_full_attention_model_of_this_package_is_such_a_checkpoint(tmp_path, task):
    torch.manual_seed(0)
    model = HybridLM(flat_config("FF", vocab_size=256, hidden_size=16, mlp_size=24, attn_heads=2, conv=3))
    with pytest.warns(UserWarning, match="a short convolution on attention"):
        save(model, tmp_path / "ours")
    spec = CheckpointSpec.of(tmp_path / "ours", task)
    assert spec.task.tokenizer == "bytes" and spec.model == model.config
    assert spec.title == f"checkpoint {tmp_path / 'ours'}"
    about = AlignSpec(spec, "gla").columns()
    assert about["teacher"] == spec.run_id and about["source"] == spec.source
    hybrid = distillation.aligned(AlignSpec(spec, "gla")).hybrid("FF")
    assert torch.equal(hybrid(tokens(5) % 256).logits, model(tokens(5) % 256).logits)


def test_what_is_not_the_checkpoint_of_the_spec_is_refused_by_name(checkpoints, tmp_path, task):
    source = checkpoints("llama")[1]
    spec = CheckpointSpec.of(source, task)
    with pytest.raises(ValueError, match="vocab_size of at least 384; got 300"):
        distillation.teacher(replace(spec, task=replace(task, recall_fraction=0.5)))
    with pytest.raises(ValueError, match=r"must hold a model of .*norm_eps=0.5.*got .*norm_eps=0.02"):
        distillation.teacher(replace(spec, model=replace(spec.model, norm_eps=0.5)))
    edited(tmp_path / "other", source, lambda t: t["model.norm.weight"].add_(1))
    with pytest.raises(ValueError, match=f"must hold weights of fingerprint {spec.fingerprint}; got "):
        distillation.teacher(replace(spec, source=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="the teacher must be a run or a checkpoint; got AlignSpec"):
        AlignSpec(AlignSpec(spec, "gla"), "gla")
    assert len({spec.run_id, CheckpointSpec.of(source, replace(task, seq_len=24)).run_id}) == 2


def test_the_table_of_families_is_what_the_messages_allow(tmp_path):
    with pytest.raises(ValueError, match=f"'mistral'; allowed: {', '.join(FAMILIES)}"):
        from_huggingface({"model_type": "mistral"} | SIZES)
