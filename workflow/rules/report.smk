# Tables, figures and pages of each corpus, and of the paper.
from snakemake.io import report as flagged


# `snakemake --report` shows tables as CSV, figures as SVG, and the pages, each with the caption file of the same name.
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
    for file in paths.report("{corpus}")
]
PAPER = [
    (
        flagged(file, caption="../report/paper.rst", category="paper")
        if Path(file).suffix == ".html"
        else file
    )
    for file in paths.PAPER
]


rule report:
    input:
        corpus_runs,
        literature=paths.LITERATURE,
    output:
        REPORT,
        record=paths.record_in("results/{corpus}"),
    log:
        "logs/{corpus}/report.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(8000),
        runtime=60,
    params:
        corpus=setting("report", "corpus"),
        proposed=setting("report", "proposed"),
        variants=setting("report", "variants"),
        across=setting("report", "across"),
        code=code("report"),
    shell:
        "emofuse report {wildcards.corpus} > {log} 2>&1"


rule paper:
    input:
        paper_runs,
        literature=paths.LITERATURE,
    output:
        PAPER,
        record=paths.record(paths.PAPER[0]),
    log:
        "logs/paper.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(4000),
        runtime=60,
    params:
        corpora=PARAMS.settings("paper"),
        code=f"code {digest('paper')}",
    shell:
        "emofuse paper > {log} 2>&1"
