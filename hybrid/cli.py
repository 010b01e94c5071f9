"""The command line: `python -m hybrid COMMAND`. Every command is a thin call into the module."""

from __future__ import annotations

import ast
import os
import re
import sys
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from inspect import getsource, signature
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse.typing import register_type

from hybrid import config
from hybrid.studies.catalogue import STUDIES

if TYPE_CHECKING:
    from hybrid.config.specs import Spec

SINGLE = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
"""Where work is done unless the command line says otherwise."""


def _train(args: Namespace) -> int:
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from hybrid.runs import trainers
    from hybrid.runs.runner import train_one

    spec = _spec(args)
    spread = {"devices": args.devices, "num_nodes": args.num_nodes, "strategy": args.strategy}
    train = trainers.trainer(spec.kind)
    if spec.kind == "run":
        train = partial(train, **spread)
    elif spread != SINGLE:
        raise ValueError(f"only a run can be spread over devices; {args.spec} is of kind {spec.kind!r}")
    if args.weights:
        train = partial(train, weights=_folder(args.weights, spec, train, spread))
    # A stored result holds no weights.
    result = train_one(spec, train, recompute=bool(args.weights), progress=not args.quiet)
    if rank_zero_only.rank == 0:
        print(f"{result.run_id}: {result.status} {result.message}".rstrip())
    return 0


def _spec(args: Namespace) -> Spec:
    """What `train` is asked for: a file of `specs`, or a run said field by field."""
    from hybrid.runs.runner import read_spec

    said = _run_fields(args)
    if args.spec is None:
        if args.model.layout is None:
            raise ValueError("a run needs --model.layout, or --config or --spec with a file that says it")
        return config.RunSpec.from_dict(said)
    if args.config or said != _run_fields(_train_parser().parse_args([])):
        raise ValueError(f"--spec says all of the work, fields beside it nothing; got --spec {args.spec}")
    return read_spec(args.spec)


def _run_fields(args: Namespace) -> dict:
    values = args.as_dict()
    return {field.name: values[field.name] for field in fields(config.RunSpec)}


def _folder(path: str, spec: Spec, train: Callable, spread: dict) -> Path:
    """Where a trained model goes; refused before any training if it cannot."""
    if "weights" not in signature(train).parameters:
        raise ValueError(
            f"no model is left of work of kind {spec.kind!r}; --weights is for run, hybrid, consa"
        )
    if spread != SINGLE:
        raise ValueError(f"--weights is for one device; got {spread}")
    if Path(path).exists():
        raise ValueError(f"--weights must name a folder that is not there yet; got {path}")
    return Path(path)


def _runs(args: Namespace) -> int:
    from hybrid.runs.runner import collect
    from hybrid.studies.catalogue import study

    frame = collect(
        study(args.study, args.scale),
        workers=args.workers,
        minutes=args.minutes,
        recompute=args.recompute,
    )
    shown = ("run_id", "mixer", "branch", "selector", "method", "units", "share", "layout", "seed", "lr")
    shown += ("status", "loss_bits_per_byte", "recall", "passkey", "seconds", "stale")
    shown = [column for column in shown if column in frame]
    print(frame[shown].to_string(index=False))
    return 0


def _golden(args: Namespace) -> int:
    # Stored are the numbers of a CPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from hybrid.studies import golden

    report = golden.write(args.kinds) if args.write else golden.check(args.kinds)
    print(report)
    return int(report.changed)


def _specs(args: Namespace) -> int:
    from hybrid.runs.runner import write_specs
    from hybrid.studies.catalogue import study

    for path in write_specs(study(args.study, args.scale), Path(args.folder)):
        print(path)
    return 0


def _notebook(args: Namespace) -> int:
    from hybrid.book import notebooks

    source = Path(args.name)
    if source.suffix != ".ipynb":
        source = notebooks.SOURCES / f"{args.name}.ipynb"
    destination = Path(args.out) if args.out else notebooks.CHAPTERS / source.name
    notebooks.execute(source, destination, notebooks.parse_parameters(args.parameters))
    print(destination)
    return 0


def _picture(args: Namespace) -> int:
    from hybrid.book import notebooks

    print(notebooks.picture(notebooks.CHAPTERS / f"{args.chapter}.ipynb", args.figure, args.out))
    return 0


def _status(args: Namespace) -> int:
    from hybrid.book import status_page

    print(status_page.write(Path(args.out)) if args.out else status_page.write())
    return 0


def _claims(args: Namespace) -> int:
    from hybrid.book import claims_page

    print(claims_page.write(Path(args.out) if args.out else claims_page.PAGE, args.scale))
    return 0


def _bench(args: Namespace) -> int:
    from dataclasses import replace

    import pandas

    from hybrid import bench
    from hybrid.runs import runner

    given = {name: getattr(args, name) for name in ("device", "repeats", "lengths")}
    (spec,) = (spec for spec in bench.plan(args.scale) if spec.subject == args.subject)
    spec = replace(spec, **{name: value for name, value in given.items() if value is not None})
    result = runner.train_one(spec, recompute=True)
    for name, rows in result.metrics.items():
        print(f"{name}\n{pandas.DataFrame(rows).to_string(index=False, na_rep='-')}\n")
    print(result.provenance["device"])
    return 0


def _evaluate(args: Namespace) -> int:
    from hybrid.released import scores

    given = args.as_dict()
    for path in scores.evaluate(given.pop("model"), given.pop("tasks"), **given):
        print(path)
    return 0


def _train_parser(whole: bool = True) -> ArgumentParser:
    """The options of `train`: where it trains, and if `whole` the fields of a run, as flags or YAML."""
    set_parsing_settings(subclasses_enabled=[config.Layout])
    register_type(config.Layout, str, config.Layout.parse)
    train = ArgumentParser(exit_on_error=False)
    train.add_argument("--config", action="config", help="YAML file of a run's fields; flags win over it")
    train.add_argument("--spec", help="JSON file of a spec of any kind, in place of fields")
    train.add_argument("--devices", type=int, default=1, help="devices a node")
    train.add_argument("--num-nodes", type=int, default=1, help="nodes")
    train.add_argument("--strategy", default="auto", help="auto, ddp, fsdp, or another of Lightning")
    train.add_argument(
        "--weights", help="new folder for the trained model; trains it even if its result is stored"
    )
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    if not whole:
        return train
    train.add_class_arguments(config.RunSpec)
    help_of = _help_of_fields()
    for action in train._actions:
        action.help = help_of.get(action.dest, action.help)
        # `--spec` does without.
        action.required = False
    return train


def _help_of_fields() -> dict[str, str]:
    """The strings below the fields of a run, by the names of its flags."""
    parts = {"model.": config.ModelConfig, "task.": config.TaskConfig, "train.": config.TrainConfig}
    return {
        prefix + field.target.id: " ".join(text.value.value.split()).replace("%", "%%")
        for prefix, kind in ({"": config.RunSpec} | parts).items()
        for field, text in pairwise(ast.parse(getsource(kind)).body[0].body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def parser(whole: bool = True) -> ArgumentParser:
    """The command line; its help is the documentation of every command. If not `whole`, `train` is without
    the fields of a run, whose defaults bring PyTorch along."""
    top = ArgumentParser(
        prog="python -m hybrid", description="Hybrid linear attention, the book", exit_on_error=False
    )
    commands = top.add_subcommands(dest="command", metavar="COMMAND")

    def command(name: str, text: str, sub: ArgumentParser | None = None) -> ArgumentParser:
        sub = sub or ArgumentParser(exit_on_error=False)
        sub.description = text
        commands.add_subcommand(name, sub, help=text)
        return sub

    command("train", "train one run, or the work of a spec, and store its result", _train_parser(whole))

    runs = command("runs", "train what is missing of a study and print its table")
    runs.add_argument("--workers", type=int, help="runs side by side; null: what fits")
    runs.add_argument("--minutes", type=float, help="stop after so many minutes, to go on later")
    runs.add_argument("--recompute", action="store_true", help="ignore stored results")
    specs = command("specs", "write the specs of a study, one JSON file a run")
    specs.add_argument("--folder", required=True, help="where the files go")
    for sub in (runs, specs):
        sub.add_argument("--study", required=True, help=", ".join(STUDIES))
        sub.add_argument("--scale", default="laptop", help="smoke, laptop, gpu or paper")

    golden = command("golden", "compare the numbers of tiny runs of each kind with the stored ones")
    golden.add_argument("kinds", nargs="*", default=[], help="kinds of runs; none: all")
    golden.add_argument("--write", action="store_true", help="store today's numbers")

    notebook = command("notebook", "execute a chapter with parameters")
    notebook.add_argument("name", help="chapter such as 08_recall, or a path to a notebook")
    notebook.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the chapter, such as scale=smoke or 'mixers=[gla]'; repeat it for more",
    )
    notebook.add_argument("--out", help="executed copy; null: the book's generated chapters")

    picture = command("picture", "write a figure of an executed chapter as SVG")
    picture.add_argument("chapter", help="executed chapter such as 08_recall")
    picture.add_argument("figure", help="label of the figure, such as fig-recall-main")
    picture.add_argument("--out", required=True, help="file to write")

    command("status", "write the status page").add_argument("--out", help="file to write")

    claims = command("claims", "decide every claim from stored runs and write the page of claims")
    claims.add_argument("--scale", default="laptop", help="smoke, laptop, gpu or paper")
    claims.add_argument("--out", help="file to write")

    bench = command("bench", "measure speed and memory beside peers and store the result")
    bench.add_argument("subject", choices=["kernels", "train", "decode", "start"])
    bench.add_argument("--scale", default="laptop", help="smoke, laptop, gpu or paper")
    bench.add_argument("--device", help="cpu or cuda; null: the scale's")
    bench.add_argument("--lengths", type=int, nargs="+", help="tokens; null: the scale's")
    bench.add_argument("--repeats", type=int, help="timed repeats of each; null: the scale's")

    evaluate = command("evaluate", "score a released or local model with lm-evaluation-harness")
    evaluate.add_argument("model", help="hub id OWNER/NAME, or a folder")
    evaluate.add_argument(
        "--tasks", nargs="+", default=["language", "ruler"], help="suites, or tasks by name"
    )
    lengths = [1024, 2048, 4096, 8192, 16384]
    evaluate.add_argument("--lengths", type=int, nargs="+", default=lengths, help="tokens of RULER's texts")
    evaluate.add_argument("--limit", type=int, help="questions a task; null: all")
    evaluate.add_argument("--shots", type=int, default=0, help="solved examples a question")
    evaluate.add_argument("--batch-size", type=int, default=8, help="texts side by side")
    evaluate.add_argument("--max-length", type=int, help="tokens kept of a text; null: the config's")
    evaluate.add_argument("--device", help="cpu or cuda; null: cuda where there is one")
    evaluate.add_argument("--dtype", help="float32 or bfloat16; null: as stored")
    evaluate.add_argument("--revision", help="branch, tag or commit on the hub; null: its main branch")
    evaluate.add_argument("--tokenizer", help="folder, hub id or 'bytes'; null: the model's own")
    evaluate.add_argument("--include", help="folder with YAML tasks of your own")
    evaluate.add_argument("--recompute", action="store_true", help="ignore stored scores")
    return top


def _explained(error: ArgumentError) -> str:
    """The message on one line; beside a field of a run that does not exist stand those that do."""
    # Of a part that may be None, only what is wrong with the part.
    around = (
        r"Does not validate .*? Errors: - | - Expected a <class 'NoneType'>| Given value type: <class .*?>"
    )
    text = re.sub(around, "", " ".join(str(error).split()))
    if part := re.search(r"'hybrid\.config\.(\w+)': Option '\w+' is not accepted", text):
        allowed = [field.name for field in fields(getattr(config, part[1]))]
    elif name := re.search(r"'train' does not accept option '([\w.]+)|arguments: --(\w+\.[\w.]+)", text):
        place = (name[1] or name[2]).rpartition(".")[0]
        options = [action.dest for action in _train_parser()._actions if action.default != SUPPRESS]
        allowed = [option for option in options if option.rpartition(".")[0] == place]
    else:
        return text
    return f"{text}; allowed: {', '.join(allowed)}"


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "train": _train,
    "runs": _runs,
    "specs": _specs,
    "golden": _golden,
    "notebook": _notebook,
    "picture": _picture,
    "status": _status,
    "claims": _claims,
    "bench": _bench,
    "evaluate": _evaluate,
}
"""What carries out each command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; wrong input ends with its message and exit status 2, not with a traceback.

    A run that diverged has a stored result, which says so, and ends with status 0. Exit status 1 is that
    of ``golden`` where a number differs.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = parser(whole="train" in argv).parse_args(argv)
    except ArgumentError as error:
        print(f"error: {_explained(error)}", file=sys.stderr)
        return 2

    # Below the parsing: they bring libraries along, which help and a mistyped command do without.
    from hybrid.book.notebooks import ChapterFailed
    from hybrid.runs.runner import RunError

    try:
        return COMMANDS[args.command](args[args.command])
    except (ValueError, OSError, RunError, ChapterFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
