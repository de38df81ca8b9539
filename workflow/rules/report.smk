# What people look at: the MLflow store, a corpus's tables, figures and page, and the paper's table.

LITERATURE = [
    f"literature/{name}.csv"
    for name in ("assumptions", "listeners", "paper", "published")
]


rule track:
    input:
        runs,
        stamp="stamps/{corpus}/track.json",
    output:
        "results/{corpus}/tracked.csv",
    log:
        "logs/{corpus}/track.log",
    conda:
        "../../environment.yml"
    shell:
        "emofuse track {wildcards.corpus} > {log} 2>&1"


rule report:
    input:
        runs,
        literature=LITERATURE,
        stamp="stamps/{corpus}/report.json",
    output:
        report.outputs("{corpus}"),
    log:
        "logs/{corpus}/report.log",
    conda:
        "../../environment.yml"
    shell:
        "emofuse report {wildcards.corpus} > {log} 2>&1"


rule paper:
    input:
        paper_runs,
        literature=LITERATURE,
        stamps=expand("stamps/{corpus}/report.json", corpus=PARAMS.paper),
    output:
        report.paper_outputs(),
    log:
        "logs/paper.log",
    conda:
        "../../environment.yml"
    shell:
        "emofuse paper > {log} 2>&1"
