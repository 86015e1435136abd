"""The whole chain on a real Slurm, by the sbatch files as they are shipped."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from clinrep import artifacts
from tests.slurm.cluster import ROOT, Cluster, edit_site, read_provenance

pytestmark = pytest.mark.slurm

STAGES = ["00_tokenize", "01_pretrain", "02_finetune", "03_extract_reps", "04_analyze"]
OUTCOMES = ["in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event"]
Jobs = dict[str, list[dict[str, str]]]


def read_jobs(printed: str) -> dict[str, str]:
    return dict(re.findall(r"^(\d\d_\w+) +job (\d+)", printed, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def chain(cluster: Cluster, checkout: Path) -> Jobs:
    """Run the pipeline and return the fields of each stage's jobs."""
    shutil.rmtree(checkout / "runs/site", ignore_errors=True)
    printed = cluster.call("slurm/pipeline.sh", cwd=checkout)
    jobs = read_jobs(printed)
    assert list(jobs) == STAGES
    assert f"squeue --jobs={','.join(jobs.values())}\n" in printed
    cluster.wait(*jobs.values(), seconds=400)
    return {stage: cluster.show(job) for stage, job in jobs.items()}


def test_the_files_that_ran_are_those_that_are_shipped(chain, checkout):
    for path in (ROOT / "slurm").glob("*.*"):
        assert path.name == "env.sh" or path.read_bytes() == (checkout / "slurm" / path.name).read_bytes()


def test_every_stage_ends_well_and_the_report_is_there(chain, checkout):
    for jobs in chain.values():
        for job in jobs:
            log = (checkout / job["StdOut"]).read_text()
            assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert "data:image/png;base64," in (checkout / "runs/site/04_analyze/report.html").read_text()
    scores = artifacts.read_table("scores", checkout / "runs/site/04_analyze")
    assert set(scores["outcome"]) == set(OUTCOMES)
    assert "classifier" in set(scores["model"])


def test_jobs_get_what_the_sbatch_lines_ask_for(chain):
    for stage, jobs in chain.items():
        asked = dict(
            re.findall(r"^#SBATCH --(\S+?)=(\S+)$", (ROOT / f"slurm/{stage}.sbatch").read_text(), re.MULTILINE)
        )
        for job in jobs:
            assert job["JobName"] == stage
            assert job["NumNodes"] == asked["nodes"]
            assert job["CPUs/Task"] == asked["cpus-per-task"]
            assert job["MinMemoryNode"] == asked["mem"]
            assert job["TimeLimit"].removeprefix("0") == asked["time"]
            assert job.get("TresPerNode", "") == asked.get("gres", "").replace("gpu", "gres:gpu")


def test_a_stage_starts_when_those_before_it_have_ended(chain):
    before = {stage: STAGES[:place] for place, stage in enumerate(STAGES)} | {"03_extract_reps": STAGES[:2]}
    for stage, jobs in chain.items():
        for earlier in before[stage]:
            assert min(job["StartTime"] for job in jobs) >= max(job["EndTime"] for job in chain[earlier])


def test_each_task_of_the_array_tunes_one_outcome(chain, checkout):
    assert sorted(int(job["ArrayTaskId"]) for job in chain["02_finetune"]) == [0, 1, 2, 3]
    for job in chain["02_finetune"]:
        directory = checkout / "runs/site/02_finetune" / OUTCOMES[int(job["ArrayTaskId"])]
        assert read_provenance(directory)["slurm_job_id"] == job["JobId"]
        assert set(artifacts.read_table("predictions", directory)["outcome"]) == {directory.name}


def test_again_every_stage_says_it_is_done(chain, cluster, checkout):
    jobs = (
        cluster.submit(checkout, "--array=2", "slurm/02_finetune.sbatch"),
        cluster.submit(checkout, "slurm/03_extract_reps.sbatch"),
    )
    for fields in cluster.wait(*jobs):
        assert fields["JobState"] == "COMPLETED"
        assert "already done" in (checkout / fields["StdOut"]).read_text()


def test_two_nodes_give_the_losses_of_one(chain, cluster, checkout):
    flags = ["--output_dir=runs/two_nodes", "--training.batch_size=2"]
    job = cluster.submit(checkout, "--nodes=2", "slurm/01_pretrain.sbatch", *flags)
    one = cluster.submit(checkout, "slurm/01_pretrain.sbatch", "--output_dir=runs/one", "--training.batch_size=2")
    (fields, _) = cluster.wait(job, one)
    log = (checkout / fields["StdOut"]).read_text()
    assert fields["JobState"] == "COMPLETED", log
    assert fields["NodeList"] == "n[1-2]"
    assert read_provenance(checkout / "runs/two_nodes")["world_size"] == 2
    assert "on 2 ranks" in log
    assert re.search(r"^0: ", log, flags=re.MULTILINE)  # every line says whose it is
    losses = [read_losses(checkout / "runs" / name) for name in ("one", "two_nodes")]
    assert losses[0]["value"].to_list() == pytest.approx(losses[1]["value"].to_list(), abs=1e-5)
    assert losses[0].height == 21  # 20 steps and the validation of the last


def read_losses(directory: Path) -> pl.DataFrame:
    rows = pl.read_ndjson(directory / "metrics.jsonl").filter(pl.col("name").is_in(["loss", "eval_loss"]))
    return rows.sort("step", "name")


def test_several_processes_share_a_node(chain, cluster, checkout):
    edit_site(checkout, PROCESSES_PER_NODE="2")
    try:
        job = cluster.submit(checkout, "slurm/03_extract_reps.sbatch", "--output_dir=runs/shared")
        wrong = cluster.submit(
            checkout, "slurm/01_pretrain.sbatch", "--output_dir=runs/wrong", "--global_batch_tokens=256"
        )
        fields, refused = cluster.wait(job, wrong)
    finally:
        edit_site(checkout, PROCESSES_PER_NODE="1")
    assert (refused["JobState"], refused["ExitCode"]) == ("FAILED", "2:0")  # one block a step for two ranks
    log = (checkout / refused["StdOut"]).read_text()
    assert len(re.findall(r"^\d: 01_pretrain.py: error: ", log, flags=re.MULTILINE)) == 1
    assert fields["JobState"] == "COMPLETED"
    assert read_provenance(checkout / "runs/shared")["world_size"] == 2
    one, two = (
        artifacts.read_table("representations", path).sort("split", "subject_id", "pooling")
        for path in (checkout / "runs/site/03_extract_reps", checkout / "runs/shared")
    )
    assert one.select("subject_id", "split", "pooling").equals(two.select("subject_id", "split", "pooling"))


def test_it_starts_and_ends_where_it_is_told(chain, cluster, checkout):
    flags = ["--flag", "04_analyze", "--num_bootstraps=20", "--flag", "04_analyze", "--output_dir=runs/site/04_again"]
    sbatch = ["--sbatch", "04_analyze", "--time=30"]
    jobs = read_jobs(cluster.call("slurm/pipeline.sh", "--from", "04_analyze", *flags, *sbatch, cwd=checkout))
    assert list(jobs) == ["04_analyze"]
    (fields,) = cluster.wait(*jobs.values())
    assert (fields["JobState"], fields["TimeLimit"]) == ("COMPLETED", "00:30:00")
    assert "num_bootstraps: 20" in (checkout / "runs/site/04_again/config.yaml").read_text()


def test_a_chain_may_wait_for_a_job_that_makes_its_input(chain, cluster, checkout):
    earlier = cluster.submit(checkout, "--output=/dev/null", "--wrap=sleep 2")
    words = ["--from", "03_extract_reps", "--to", "03_extract_reps", "--after", earlier]
    jobs = read_jobs(cluster.call("slurm/pipeline.sh", *words, cwd=checkout))
    first, second = cluster.wait(earlier, *jobs.values())
    assert second["StartTime"] >= first["EndTime"]
    assert second["JobState"] == "COMPLETED"


def test_a_failed_stage_stops_the_chain(cluster, checkout, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/notes.txt").touch()  # there, but no tables: seen only when the stage reads them
    edit_site(checkout, CLIF_DIR=str(tmp_path / "tables"), RUN_DIR="runs/failing")
    try:
        jobs = read_jobs(cluster.call("slurm/pipeline.sh", cwd=checkout))
        first, *later = cluster.wait(*jobs.values())
    finally:
        edit_site(checkout, CLIF_DIR="sample_data/clif_demo", RUN_DIR="runs/site")
    assert (first["JobState"], first["ExitCode"]) == ("FAILED", "2:0")
    assert {fields["JobState"] for fields in later} == {"CANCELLED"}
    assert not (checkout / "runs/failing").exists()
    log = (checkout / first["StdOut"]).read_text()
    assert log.count("error: ") - log.count("srun: error: ") == 1
    assert "slurm: failed with exit code 2" in log


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "05_more"], "unknown stage '05_more'; known: 00_tokenize"),
        (["--from", "03_extract_reps", "--to", "01_pretrain"], "--from 03_extract_reps comes after --to 01_pretrain"),
        (["--form"], "unknown word '--form'"),
        (["--after", "x"], "--after 'x' is no job id"),
        (["--flag", "01_pretrain"], "--flag needs two values"),
        (["--flag", "01_pretrain", "--block_sise=3"], "did you mean 'block_size'"),
        (["--flag", "02_finetune", "--training.batch_size=0"], "batch_size is 0 but must be 1 or more"),
        (["--flag", "00_tokenize", "--clif_dir=nowhere"], "nowhere does not exist"),
        (["--flag", "02_finetune", "--outcome=icu_admission"], "is one run, but this is an array of 4"),
        (
            ["--flag", "02_finetune", "--output_dir=runs/x", "--to", "02_finetune"],
            "two runs would be the same",
        ),
        (["--flag", "00_tokenize", "--seed=9", "--to", "00_tokenize"], "holds another run: seed was 42, now 9"),
        (["--flag", "00_tokenize", "--output_dir=README.md", "--to", "00_tokenize"], "cannot be written"),
        (["--flag", "01_pretrain", "--help"], "--help runs nothing"),
        (["--from", "00_tokenize 01_pretrain"], "unknown stage '00_tokenize 01_pretrain'"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_submitted(cluster, checkout, tokenized, words, said):
    before = cluster.call("squeue", "--noheader", cwd=checkout)
    printed = cluster.call("slurm/pipeline.sh", *words, cwd=checkout, code=2)
    assert said in printed
    assert "Traceback" not in printed
    assert cluster.call("squeue", "--noheader", cwd=checkout) == before


def test_an_unfinished_stage_before_the_first_is_refused(cluster, checkout):
    edit_site(checkout, RUN_DIR="runs/unfinished")
    directory = checkout / "runs/unfinished/00_tokenize"
    directory.mkdir(parents=True)
    (directory / "provenance.json").write_text("{}")
    try:
        printed = cluster.call("slurm/pipeline.sh", "--from", "01_pretrain", cwd=checkout, code=2)
        assert "00_tokenize holds a run that is not finished (no DONE)" in printed
        (directory / "provenance.json").unlink()
        directory.rmdir()
        printed = cluster.call("slurm/pipeline.sh", "--from", "01_pretrain", cwd=checkout, code=2)
        assert "00_tokenize does not exist" in printed
    finally:
        edit_site(checkout, RUN_DIR="runs/site")


def test_when_slurm_refuses_one_job_none_is_left(cluster, checkout):
    edit_site(checkout, RUN_DIR="runs/refused")
    try:
        printed = cluster.call("slurm/pipeline.sh", "--sbatch", "01_pretrain", "--partition=no", cwd=checkout, code=1)
    finally:
        edit_site(checkout, RUN_DIR="runs/site")
    (job,) = read_jobs(printed).values()
    assert f"cancelled what had been: {job}" in printed
    (fields,) = cluster.wait(job)
    assert fields["JobState"] == "CANCELLED"


def test_dry_run_submits_nothing(cluster, checkout):
    printed = cluster.call("slurm/pipeline.sh", "--dry_run", "--sbatch", "01_pretrain", "--nodes=4", cwd=checkout)
    assert printed.splitlines() == [
        "sbatch --parsable slurm/00_tokenize.sbatch",
        "sbatch --parsable --dependency=afterok:ID_OF_00_tokenize --kill-on-invalid-dep=yes --nodes=4 "
        "slurm/01_pretrain.sbatch",
        "sbatch --parsable --dependency=afterok:ID_OF_01_pretrain --kill-on-invalid-dep=yes --array=0-3 "
        "slurm/02_finetune.sbatch",
        "sbatch --parsable --dependency=afterok:ID_OF_01_pretrain --kill-on-invalid-dep=yes "
        "slurm/03_extract_reps.sbatch",
        "sbatch --parsable --dependency=afterok:ID_OF_02_finetune:ID_OF_03_extract_reps --kill-on-invalid-dep=yes "
        "slurm/04_analyze.sbatch",
    ]
    assert not cluster.call("squeue", "--noheader", cwd=checkout)


def test_a_job_uses_the_paths_it_was_submitted_with(cluster, checkout):
    # env.sh is read when the job starts: edited for the next site meanwhile, it would mix the two.
    words = ["--to", "00_tokenize", "--sbatch", "00_tokenize", "--hold"]
    edit_site(checkout, RUN_DIR="runs/first_site")
    try:
        (job,) = read_jobs(cluster.call("slurm/pipeline.sh", *words, cwd=checkout)).values()
        edit_site(checkout, RUN_DIR="runs/second_site", CLIF_DIR="nowhere")
        cluster.call("scontrol", "release", job, cwd=checkout)
        (fields,) = cluster.wait(job)
    finally:
        edit_site(checkout, RUN_DIR="runs/site", CLIF_DIR="sample_data/clif_demo")
    assert fields["JobState"] == "COMPLETED"
    assert (checkout / "runs/first_site/00_tokenize/DONE").is_file()
    assert not (checkout / "runs/second_site").exists()
