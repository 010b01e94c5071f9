# The pipeline: runs -> chapters -> site. What exists and is newer than its sources is kept.
#   snakemake                                    everything, on this machine
#   snakemake --executor slurm --jobs 50         the same, one job a run
#   snakemake --config scale=gpu                 chapters and their runs at another scale
#   snakemake runs --config study=recall         the runs of one study alone

import json
import sys
from pathlib import Path

from hybrid.config.files import home
from hybrid.runs import runner, store
from hybrid.studies import catalogue

HOME = home()
RUNS = store.Store().root / "runs"
SPECS = HOME / "_build" / "specs"
CHAPTERS = sorted(path.stem for path in HOME.glob("notebooks/[0-9]*.ipynb"))
SCALE = config.get("scale", "laptop")
BIN = Path(sys.executable).parent


def results(study):
    """Write the specs of a study, and name the results they will have."""
    return [RUNS / path.name for path in runner.write_specs(catalogue.study(study, SCALE), SPECS)]


def results_of_the_chapter(wildcards):
    """The results of all studies that a chapter shows."""
    return [result for study in catalogue.NEEDED_BY.get(wildcards.chapter, ()) for result in results(study)]


rule site:
    input:
        expand("book/chapters/{chapter}.ipynb", chapter=CHAPTERS),
        HOME.glob("book/*.*"),
        HOME.glob("book/_static/**/*.*"),
        "_config.yml",
        "book/claims.md",
        "book/status.md",
    output:
        "_build/html/index.html",
    localrule: True
    shell:
        "rm -rf _build/html _build/.doctrees && "
        "{BIN}/jupyter-book build book -W -n --keep-going"


rule status:
    input:
        expand("book/chapters/{chapter}.json", chapter=CHAPTERS),
        "hybrid/book/status_page.py",
    output:
        "book/status.md",
    localrule: True
    shell:
        "{BIN}/python -m hybrid status --out {output}"


rule claims:
    input:
        expand("book/chapters/{chapter}.json", chapter=CHAPTERS),
        "book/claims.yml",
        HOME.glob("hybrid/**/*.py"),
    output:
        "book/claims.md",
    localrule: True
    shell:
        "{BIN}/python -m hybrid claims --scale {SCALE} --out {output}"


def threads_of_the_chapter(wildcards):
    """Every core for a chapter that measures time, as its metadata say; the others share them."""
    notebook = json.loads((HOME / "notebooks" / f"{wildcards.chapter}.ipynb").read_text(encoding="utf-8"))
    return workflow.cores if notebook["metadata"].get("measures_time") else 1


rule chapter:
    input:
        "notebooks/{chapter}.ipynb",
        HOME.glob("hybrid/**/*.py"),
        HOME.glob("book/published/*.csv"),
        results_of_the_chapter,
    output:
        "book/chapters/{chapter}.ipynb",
        "book/chapters/{chapter}.json",
    params:
        given="" if SCALE == "laptop" else f"-p scale={SCALE}",
    threads: threads_of_the_chapter
    shell:
        "OMP_NUM_THREADS={threads} {BIN}/python -m hybrid notebook {wildcards.chapter} {params.given} --out {output[0]}"


rule runs:
    input:
        lambda wildcards: results(config["study"]),
    localrule: True


# Results are committed: no file input and no params, or a fresh clone or a moved one would train
# them all again.
rule train:
    output:
        RUNS / "{run_id}.json",
    threads: 1
    shell:
        "{BIN}/python -m hybrid train --quiet --spec {SPECS}/{wildcards.run_id}.json"
