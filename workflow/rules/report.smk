# What people look at: the MLflow store, a corpus's tables, figures and page, and those of the paper.
from snakemake.io import report as flagged


# `snakemake --report` shows tables as CSV, figures as SVG, and the pages, each with the caption of its name.
report: "../report/workflow.rst"


REPORT = [
    (
        flagged(
            file,
            caption=f"../report/{Path(*Path(file).parts[2:]).with_suffix('.rst')}",
            category="{corpus}",
            subcategory=Path(*Path(file).parts[2:-1]).name or "page",
            labels={"name": Path(file).stem},
        )
        if Path(file).suffix in (".csv", ".svg", ".html")
        else file
    )
    for file in report.outputs("{corpus}")
]
PAPER = [
    (
        flagged(file, caption="../report/paper.rst", category="paper")
        if Path(file).suffix == ".html"
        else file
    )
    for file in report.paper_outputs()
]


rule track:
    input:
        runs,
        stamp="stamps/{corpus}/track.json",
    output:
        "results/{corpus}/tracked.csv",
        fingerprint="provenance/{corpus}/track.json",
    log:
        "logs/{corpus}/track.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(4000),
        runtime=60,
    shell:
        "emofuse track {wildcards.corpus} > {log} 2>&1"


rule report:
    input:
        runs,
        literature=graph.LITERATURE,
        stamp="stamps/{corpus}/report.json",
    output:
        REPORT,
        fingerprint="provenance/{corpus}/report.json",
    log:
        "logs/{corpus}/report.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(8000),
        runtime=60,
    shell:
        "emofuse report {wildcards.corpus} > {log} 2>&1"


rule paper:
    input:
        paper_runs,
        literature=graph.LITERATURE,
        stamps=expand("stamps/{corpus}/report.json", corpus=PARAMS.paper),
    output:
        PAPER,
        fingerprint="provenance/paper.json",
    log:
        "logs/paper.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(4000),
        runtime=60,
    shell:
        "emofuse paper > {log} 2>&1"
