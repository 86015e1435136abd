"""Submits what is missing of a study, or runs it here: each run after those it reads."""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

from clinrep.config import InputError, parse_config
from clinrep.slurm import jobs, sbatch_file
from clinrep.slurm.grid import GRID_FILE, Grid, Submission, hold, read_grid
from clinrep.slurm.states import FINISHED, UNDER_WAY, find_states
from clinrep.slurm.study import Run, Study, plan_study, take_up
from clinrep.slurm.study_config import StudyConfig


def carry_out(options: argparse.Namespace) -> int:
    """Carry out the command `study` and return its exit code: 1 where a local run did not finish."""
    if options.max_parallel is not None and options.max_parallel < 1:
        raise InputError(f"--max_parallel is {options.max_parallel} but must be 1 or more; leave it out")
    words = [f"--config={options.file}", *options.flags]
    config = parse_config(StudyConfig, words, "python -m clinrep.slurm study", "Settings of a study.")
    study = plan_study(config)
    if options.dry_run:
        return _print_plan(study, options.cluster == "local")
    new = [grid.directory for grid in study.grids.values() if not grid.directory.exists()]
    try:
        with ExitStack() as stack:
            for grid in study.grids.values():
                stack.enter_context(hold(grid.directory))
            study = take_up(study)  # with what another process may have submitted meanwhile
            if options.cluster == "local":
                return _run_here(study, options.max_parallel)
            return _submit(study, options.max_parallel)
    finally:
        for directory in new:  # nothing was submitted: leave nothing
            if directory.exists() and not (directory / GRID_FILE).is_file():
                shutil.rmtree(directory)


def _submit(study: Study, max_parallel: int | None) -> int:
    """Submit to Slurm, one array a step, what has neither finished nor is under way."""
    fresh: dict[str, str] = {}  # step that is submitted whole now -> id of its array
    grids = dict(study.grids)
    for step in study.grids:
        grid = grids[step]
        names = _list_missing(grid)
        print(f"{step}: {_count(grid)}")
        if not names:
            continue
        command = study.commands[step, names[0]]
        ids = _list_jobs(study, grids, step, names, fresh)
        waits = {"dependency": f"afterok:{':'.join(ids)}", "kill-on-invalid-dep": "yes"} if ids else {}
        with sbatch_file.job_environment(command, grid.sbatch):
            submitted = jobs.submit_to_slurm(replace(grid, sbatch=grid.sbatch | waits), names, max_parallel)
        grids[step] = _keep(replace(grid, site=command.site), submitted)
        array = next(iter(submitted.values())).job_id.partition("_")[0]
        if len(names) == len(grid.combinations):
            fresh[step] = array
        print(f"  job {array}: {_say_runs(len(names))}{', after ' + ', '.join(ids) if ids else ''}")
    print("follow them by: squeue --me; the same command again submits what failed or is missing")
    return 0


def _list_jobs(study: Study, grids: dict[str, Grid], step: str, names: list[str], fresh: dict[str, str]) -> list[str]:
    """Return the ids of the jobs that some runs of a step wait for: of those they read that have not finished."""
    ids: dict[str, None] = {}
    states = {other: find_states(grids[other]) for other in study.list_needed_steps(step)}
    for name in names:
        for other, needed in study.needs[step, name]:
            if states[other][needed].word != FINISHED:
                ids[fresh.get(other) or grids[other].submissions[needed].job_id] = None
    return list(ids)


def _keep(grid: Grid, submitted: dict[str, Submission]) -> Grid:
    """Save what was submitted, beside what the grid's file knows of earlier combinations, and return the grid."""
    grid = replace(grid, submissions=grid.submissions | submitted)
    known = read_grid(grid.directory).combinations if (grid.directory / GRID_FILE).is_file() else {}
    replace(grid, combinations=known | grid.combinations).save()
    return grid


def _run_here(study: Study, max_parallel: int | None) -> int:
    """Run here what has not finished, each run when those it reads have; return 1 where one did not finish."""
    grids = dict(study.grids)
    tasks = []
    for step, grid in study.grids.items():
        print(f"{step}: {_count(grid)}", flush=True)
        tasks += [jobs.Task(grid, name, study.commands[step, name]) for name in _list_missing(grid)]
    steps = {id(grid): step for step, grid in study.grids.items()}
    finished = {
        (step, name)
        for step, grid in grids.items()
        for name, state in find_states(grid).items()
        if state.word == FINISHED
    }

    def identify(task: jobs.Task) -> Run:
        return steps[id(task.grid)], task.name

    def choose(waiting: list[jobs.Task]) -> jobs.Task | None:
        """Return the first task whose inputs are all there."""
        return next((task for task in waiting if finished.issuperset(study.needs[identify(task)])), None)

    def report(task: jobs.Task, job: Submission, has_ended: bool) -> None:
        """Keep and print that a run has started or ended."""
        step, name = run = identify(task)
        grids[step] = _keep(replace(grids[step], site=task.command.site), {name: job})
        if not has_ended:
            print(f"starting {_name(run)} ({job.log})", flush=True)
            return
        state = find_states(replace(grids[step], combinations={name: task.grid.combinations[name]}))[name]
        if state.word == FINISHED:
            finished.add(run)
        print(f"{state.word:8} {_name(run)}{': ' if state.reason else ''}{state.reason}", flush=True)

    jobs.run_here(tasks, max_parallel, report, choose)
    left = [run for run in study.commands if run not in finished]
    for run in left:
        lacking = [needed for needed in study.needs[run] if needed not in finished]
        if lacking:
            print(f"not run  {_name(run)}: it reads {_name(lacking[0])}, which did not finish")
    return int(bool(left))


def _list_missing(grid: Grid) -> list[str]:
    return [name for name, state in find_states(grid).items() if state.word not in UNDER_WAY]


def _count(grid: Grid) -> str:
    """Return how many runs are in which state."""
    counts = Counter(
        state.word if state.word in UNDER_WAY else "to start" for state in find_states(grid).values()
    )  # what failed is started anew
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _say_runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _name(run: Run) -> str:
    """Return `step` or `step/seed=1`."""
    return "/".join(part for part in run if part)


def _print_plan(study: Study, is_local: bool) -> int:
    """Print each step, what it waits for and asks for, its runs, and the command of the first."""
    for step, grid in study.grids.items():
        before = study.list_needed_steps(step)
        print(f"{step}: {grid.stage}, {_count(grid)}{', after ' + ', '.join(before) if before else ''}")
        resources = jobs.resolve_options(grid)
        shown = " ".join(f"--{name}{'=' if value else ''}{value}" for name, value in resources.items())
        print(f"  each job {'this machine' if is_local else shown}")
        for number, (name, state) in enumerate(find_states(grid).items()):
            word = state.word if state.word in UNDER_WAY else "to start"
            print(f"  {word:8} {grid.find_output_dir(name)}")
            if number == 0:
                print(f"           {shlex.join(study.commands[step, name].argv)}")
    print(f"{_say_runs(len(study.commands))} in {len(study.grids)} steps")
    return 0
