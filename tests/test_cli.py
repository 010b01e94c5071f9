"""A training run on the command line: flags, YAML files and specs say the same run, or are refused."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from fake_training import result
from flat import flat_config
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid import cli
from hybrid.config import MIXERS, AttentionConfig, LinearConfig, ModelConfig, RunSpec, TaskConfig, TrainConfig
from hybrid.runs import runner
from hybrid.runs.store import Result


def trained(*words) -> list[RunSpec]:
    """What `train` would train."""
    with patch.object(runner, "train_one", side_effect=lambda spec, *_, **__: result(spec)) as train_one:
        assert cli.main(["train", *map(str, words)]) == 0
    return [call.args[0] for call in train_one.call_args_list]


def refused(capsys, *words) -> str:
    """The one line with which `train` refuses."""
    with patch.object(runner, "train_one", side_effect=lambda *_, **__: pytest.fail("something is trained")):
        assert cli.main(["train", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def printed(*words) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as end:
        cli.main(["train", *words, "--print_config"])
    assert not end.value.code
    return out.getvalue()


def flags(values: dict, place: str = "--") -> list[str]:
    """One flag for every field that is one value or a list; null is the default of all but `rotary`."""
    words = []
    for name, value in values.items():
        if isinstance(value, dict):
            words += flags(value, f"{place}{name}.")
        elif value is not None or name == "rotary":
            words += [place + name, value if isinstance(value, str) else json.dumps(value)]
    return words


def test_flags_say_the_run():
    words = (
        "--model.layout LLLF --model.linear.mixer gla --model.hidden_size 64 --model.attention.rotary null"
    )
    words += " --task.seq_len 64 --task.pairs [1,2] --train.steps 500 --train.lr 1e-3 --seed 3"
    model = ModelConfig("LLLF", "gla", AttentionConfig(rotary=None), hidden_size=64)
    expected = RunSpec(model, TaskConfig(seq_len=64, pairs=(1, 2)), TrainConfig(steps=500, lr=1e-3), 3)
    (spec,) = trained(*words.split())
    assert spec == expected and spec.run_id == expected.run_id


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: {layout: LF, linear: {mixer: gla, num_heads: 2}}\ntrain: {steps: 300}\nseed: 1\n")
    expected = RunSpec(
        ModelConfig("LF", LinearConfig("gla", num_heads=4)), TaskConfig(), TrainConfig(steps=200), 1
    )
    assert trained("--config", file, "--train.steps", 200, "--model.linear.num_heads", 4) == [expected]


RUNS = st.builds(
    RunSpec,
    st.builds(
        flat_config,
        st.text(alphabet="LFPlfpm", min_size=1, max_size=5),
        st.sampled_from(sorted(MIXERS)),
        hidden_size=st.just(128),
        attn_heads=st.sampled_from([2, 4]),
        rope_theta=st.none() | st.sampled_from([1e4, 5e5]),
        rope_stretch=st.none() | st.just((8.0, 1.0, 4.0, 8192.0)),
        conv=st.sampled_from(["reference", "none", 2]),
        qk_norm=st.booleans(),
    )
    | st.builds(
        flat_config,
        st.just("WFw"),
        window=st.integers(1, 9),
        attn_kv_heads=st.just(2),
        full_heads=st.sampled_from([None, ((0,), (), ()), ((), (), (1,))]),
    ),
    st.builds(
        TaskConfig, pairs=st.lists(st.integers(1, 16), min_size=1, max_size=3), queries=st.none() | st.just(4)
    ),
    st.builds(TrainConfig, lr=st.floats(1e-6, 1e-2), betas=st.tuples(st.floats(0, 0.99), st.just(0.95))),
    st.integers(0, 9),
)


@settings(deadline=None, max_examples=8)
@given(RUNS)
def test_flags_yaml_and_spec_files_say_the_same_run(spec):
    words = flags(spec.to_dict() | {"kind": {}})
    with TemporaryDirectory() as folder:
        yaml, file = Path(folder, "run.yaml"), Path(folder, "spec.json")
        yaml.write_text(printed(*words))
        file.write_text(json.dumps(spec.to_dict()))
        said = [*trained(*words), *trained("--config", yaml), *trained("--spec", file)]
    assert said == [spec] * 3 and {s.run_id for s in said} == {spec.run_id}


def test_a_part_that_no_block_holds_is_dropped():
    first, second = (
        trained("--model.layout", "F"),
        trained("--model.layout", "F", "--model.linear.mixer", "gla"),
    )
    assert first == second and first[0].model.linear is None


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", "--model.layout"),
        ("--train.steps 5 --train.warmup 1", "--model.layout"),
        ("--model.layout LXF", "'X' at position 1 of layout 'LXF'; allowed: F (full"),
        ("--model.layout L", "layout L has blocks that need `linear`; got None; its mixer is one of"),
        (
            "--model.layout L --model.linear.mixer glas",
            "unknown mixer 'glas'; allowed: deltanet, gated_deltanet",
        ),
        (
            "--model.layout F --model.linear.num_heads many",
            "\"num_heads\": Expected a <class 'int'>|Given value: many",
        ),
        ("--model.layout F --model.linear.heads 3", "'heads' is not accepted|; allowed: mixer, num_heads,"),
        (
            "--model.layout F --model.attention.rotary.theeta 3",
            "'theeta' is not accepted|; allowed: theta, stretch",
        ),
        ("--model.layout F --train.steps 0", "steps must be a whole number of at least 1; got 0"),
        ("--model.layout F --train.steps some", "\"train.steps\": Expected a <class 'int'>. Got value: some"),
        ("--model.layout F --train.stepps 3", "--train.stepps 3; allowed: train.steps, train.batch_size,"),
        ("--model.layout F --train.betas [0.9]", '"train.betas": Expected a tuple with 2 elements'),
        ("--model.layout F --task.packing tight", "unknown packing 'tight'; allowed: stream, document"),
        ("--model.layout F --seed -1", "seed must be a whole number from 0; got -1"),
        ("--config nowhere.yaml", "nowhere.yaml"),
        ("--spec nowhere.json", "No such file or directory: 'nowhere.json'"),
        ("--spec nowhere.json --model.layout F", "got --spec nowhere.json"),
        ("--spec nowhere.json --seed 1", "got --spec nowhere.json"),
    ],
)
def test_what_is_no_run_is_refused_on_one_line(words, named, capsys):
    line = refused(capsys, *words.split())
    assert line.startswith("error: ") and all(part in line for part in named.split("|"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: [layout", "Problems parsing config"),
        ("a few words", "a few words"),
        ("model: {layout: F, hiden_size: 3}", "'model.hiden_size'; allowed: model.layout, model.linear,"),
        ("model: {layout: F}\nsteps: 3", "'steps'; allowed: config, spec, devices,"),
        ("model: {layout: F, attention: {heads: 3}}", "'heads' is not accepted|; allowed: num_heads,"),
        ("train: {steps: 5}", "--model.layout"),
        ("model: {layout: F}\ntrain: {lr: -1}", "lr must be positive; got -1.0"),
    ],
)
def test_a_bad_yaml_file_is_refused_on_one_line(text, named, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(text)
    line = refused(capsys, "--config", tmp_path / "run.yaml")
    assert all(part in line for part in named.split("|"))


def test_a_file_of_fields_beside_a_spec_is_refused(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("model: {layout: F}")
    assert "got --spec a.json" in refused(capsys, "--spec", "a.json", "--config", tmp_path / "run.yaml")


def test_help_says_what_each_field_is(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "Peak learning rate. (type: float, default: 0.001)",
        "What each block holds",
        "auto, ddp, fsdp",
    ):
        assert words in said


@pytest.mark.parametrize("words", [[], ["trian"], ["bench", "kernel"], ["runs"]], ids=str)
def test_a_mistyped_command_ends_with_one_line(words, capsys):
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_every_command_has_its_function():
    assert cli.COMMANDS.keys() == cli.parser()._subcommands_action.choices.keys()


def test_the_command_trains_a_run_and_stores_it(tmp_path):
    words = "--model.layout LF --model.linear.mixer gla --model.hidden_size 16 --model.vocab_size 384"
    words += (
        " --model.attention.num_heads 2 --task.recall_fraction 1 --task.pairs [1,2] --task.eval_pairs [2]"
    )
    words += " --task.seq_len 32 --task.eval_lengths [32] --task.eval_sequences 4"
    words += " --train.steps 10 --train.warmup 1 --train.batch_size 4 --quiet"
    (spec,) = trained(*words.split())
    folders = {"HYBRID_RESULTS": str(tmp_path / "results"), "HYBRID_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "hybrid", "train", *words.split()],
        env=os.environ | folders,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and f"{spec.run_id}: done" in done.stdout, done.stderr[-2000:]
    stored = Result.from_json((tmp_path / "results" / "runs" / f"{spec.run_id}.json").read_text())
    assert stored.spec == spec and stored.curve[-1]["step"] == 10
