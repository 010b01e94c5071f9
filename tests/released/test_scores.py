"""Evaluations of a local checkpoint in released form with local tasks: measured once, stored, read."""

import json
import time

import pytest
import torch
from fla_stub import models
from flat import flat_config
from safetensors.torch import load_file, save_file

from hybrid import cli
from hybrid.checkpoints.fla_config import to_fla
from hybrid.data import hub
from hybrid.released import scores
from hybrid.released.harness import byte_tokenizer

QUESTIONS = [{"ask": f"{n} and one make", "choices": [f"{n + 1}", f"{n + 22}"]} for n in range(1, 9)]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{ask}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
# The generator and the scoring of the harness's own task, without the word lists of its needle tasks.
CWE = """
task: ruler_cwe
custom_dataset: !function generated.few
output_type: generate_until
test_split: test
doc_to_text: "{{input}}"
doc_to_target: "{{outputs}}"
gen_prefix: "{{gen_prefix}}"
target_delimiter: " "
process_results: !function generated.process_results
metric_list:
  - {metric: "4096", aggregation: mean, higher_is_better: true}
generation_kwargs: {do_sample: false, temperature: 0.0, max_gen_toks: 20, until: []}
metadata: {version: 1.0}
"""
GENERATED = """
from lm_eval.tasks.ruler.common_utils import process_results
from lm_eval.tasks.ruler.cwe_utils import get_cw_dataset


def few(**given):
    assert (given["max_seq_lengths"], given["tokenizer"] != "") == ([2048], True)
    return {"test": get_cw_dataset(**given)["test"].select(range(2))}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny hybrid written by flash-linear-attention, with the tensor of its older Gated DeltaNets."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-hybrid-3-1"
    shape = {"vocab_size": 256, "hidden_size": 32, "mlp_size": 48, "attn_heads": 2, "init_std": 0.3}
    heads = {"num_heads": 2, "head_k_dim": 8, "head_v_dim": 8}
    config = to_fla(flat_config("LLF", "gated_deltanet", **shape, **heads)) | {"max_position_embeddings": 256}
    with pytest.MonkeyPatch.context() as patch:
        fla = models(patch)
        torch.manual_seed(0)
        fla.GatedDeltaNetForCausalLM(fla.GatedDeltaNetConfig(**config)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {f"model.layers.{i}.attn.D": torch.zeros(2) for i in (0, 1)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "questions.json").write_text(json.dumps(QUESTIONS))
    for name in ("addition", "again"):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=folder / "questions.json"))
    (folder / "cwe.yaml").write_text(CWE)
    (folder / "generated.py").write_text(GENERATED)
    return folder


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_RESULTS", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "evaluations"


@pytest.mark.filterwarnings("ignore:unknown tensors, all zero")
def test_a_local_task_is_measured_once_and_read_as_a_table(checkpoint, tasks, store, monkeypatch):
    given = {"include": tasks, "device": "cpu"}
    (path,) = scores.evaluate(str(checkpoint), ["addition"], **given)
    record = json.loads(path.read_text())
    assert path.parent == store and path.name.startswith("tiny-hybrid-3-1.addition.")
    assert record["task_version"] == 2.0 and record["n"] == len(QUESTIONS)
    assert str(checkpoint.parent) not in path.read_text()
    assert {"versions", "commit", "date", "device", "seconds"} <= record["provenance"].keys()
    assert record["provenance"]["versions"]["lm_eval"]
    table = scores.stored().set_index("metric")
    assert table.loc["acc", "max_length"] == 256 and table.loc["acc", "dtype"] == "float32"

    # What the two accuracies mean, from the scores themselves: whole, and divided by the length.
    from lm_eval.api.instance import Instance

    from hybrid.checkpoints.checkpoint import load
    from hybrid.released.harness import Harness

    lm = Harness(load(checkpoint), byte_tokenizer(), 256)
    right = {"acc": 0, "acc_norm": 0}
    for question in QUESTIONS:
        pairs = [(question["ask"], f" {choice}") for choice in question["choices"]]
        asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        (a, _), (b, _) = lm.loglikelihood(asked, disable_tqdm=True)
        right["acc"] += a > b
        right["acc_norm"] += a / len(question["choices"][0]) > b / len(question["choices"][1])
    for metric, count in right.items():
        assert table.loc[metric, "value"] == pytest.approx(count / len(QUESTIONS))

    before = path.stat().st_mtime_ns
    monkeypatch.setattr(scores, "_run", lambda *_: pytest.fail("a stored score was measured again"))
    assert scores.evaluate(str(checkpoint), ["addition"], **given) == [path]
    assert path.stat().st_mtime_ns == before
    measured = {}
    monkeypatch.setattr(
        scores, "_run", lambda lm, one, _: measured.setdefault(one.task, {"limit": one.limit})
    )
    other = scores.evaluate(str(checkpoint), ["addition", "again"], limit=3, **given)
    assert measured == {"addition": {"limit": 3}, "again": {"limit": 3}} and path not in other
    path.unlink()
    scores.evaluate(str(checkpoint), ["addition"], **given)
    assert json.loads(path.read_text()) == {"limit": 3}


@pytest.mark.filterwarnings("ignore:unknown tensors, all zero")
def test_ruler_is_generated_at_the_length_asked_for(checkpoint, tasks):
    (path,) = scores.evaluate(
        str(checkpoint), ["ruler_cwe"], lengths=[2048], include=tasks, device="cpu", batch_size=2
    )
    record = json.loads(path.read_text())
    assert record["evaluation"]["length"] == record["evaluation"]["max_length"] == 2048
    assert list(record["metrics"]) == ["accuracy"] and record["n"] == 2
    assert 0 <= record["metrics"]["accuracy"]["value"] <= 1
    assert record["truncated"] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": ["additoin"]}, "unknown task additoin; allowed: language, ruler, .*addition"),
        ({"limit": 0}, "limit must be at least 1; got 0"),
        ({"shots": -1}, "shots must be at least 0; got -1"),
        ({"lengths": [0]}, "length must be at least 1; got 0"),
        ({"dtype": "float8"}, "dtype must be float32 or bfloat16; got 'float8'"),
        ({"revision": "main"}, "local folder, which has no revision"),
    ],
)
def test_wrong_input_is_refused_before_a_model_is_read(checkpoint, tasks, given, message, monkeypatch):
    monkeypatch.setattr(scores, "load", lambda *_, **__: pytest.fail("a model was read"))
    with pytest.raises(ValueError, match=message):
        scores.evaluate(str(checkpoint), **({"tasks": ["addition"], "include": tasks} | given))


def test_without_a_network_it_is_said_at_once_what_is_needed(checkpoint, monkeypatch, capsys):
    import huggingface_hub  # noqa: F401  its import is not what is timed

    for name in (*hub.OFFLINE, "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    assert cli.main(["evaluate", "m-a-p/1.3B-100B-GatedDeltaNet-pure"]) == 2
    assert cli.main(["evaluate", str(checkpoint), "--tasks", "piqa"]) == 2
    assert time.monotonic() - start < 2
    first, second = capsys.readouterr().err.splitlines()
    assert "GatedDeltaNet-pure' is no local folder and not in the hub's cache" in first
    assert "the data sets of piqa come from the hub, and http://127.0.0.1:9 cannot be reached" in second


def test_every_option_of_the_command_reaches_the_function(monkeypatch):
    seen, options = {}, scores.evaluate.__kwdefaults__
    monkeypatch.setattr(scores, "evaluate", lambda model, tasks, **given: seen.update(given) or [])
    assert cli.main(["evaluate", "a/b", "--tasks", "ruler", "--lengths", "1024", "--limit", "5"]) == 0
    assert seen["lengths"] == [1024] and seen["limit"] == 5
    assert seen.keys() == options.keys()
    defaults = cli.parser().parse_args(["evaluate", "a/b"]).evaluate
    assert {name: defaults[name] for name in options} == options | {"lengths": list(scores.LENGTHS)}
    assert defaults["tasks"] == list(scores.SUITES)


def test_a_file_that_cannot_be_read_is_named_and_left_out(store):
    assert scores.stored().empty
    store.mkdir(parents=True)
    (store / "cut.json").write_text('{"evaluation": {')
    (store / "foreign.json").write_text("[1]")
    with pytest.warns(match=r"(cut|foreign)\.json is passed over"):
        assert scores.stored().empty


def test_the_tasks_are_the_harnesss():
    manager = scores._manager(None)
    assert {*scores.LANGUAGE, *scores.RULER} <= set(manager.all_subtasks)
    from lm_eval.tasks._yaml_loader import load_yaml

    group = manager.task_index["ruler"].yaml_path
    assert sorted(load_yaml(group)["task"]) == sorted(scores.RULER)
