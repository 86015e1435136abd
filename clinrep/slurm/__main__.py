"""Submit every combination of some settings of a stage, see what became of them, and rerun what is missing.

  python -m clinrep.slurm submit 02_finetune --grid outcome=icu_admission,imv_event seed=1,2,3
  python -m clinrep.slurm submit 02_finetune --grid seed=1,2,3 --cluster local --outcome icu_admission
  python -m clinrep.slurm status
  python -m clinrep.slurm status 02_finetune --rerun
  python -m clinrep.slurm study configs/ehr/manuscript/study.yaml --clif_dir.mimic DIR --clif_dir.ucmc DIR

What submit does not know (--outcome above) is a flag of the stage, the same for every run. Jobs ask for what the
#SBATCH lines of slurm/<stage>.sbatch say, and run its launch line. Each run has its own folder in --grid_dir.
A study is the runs of several stages at several sites in one YAML, each after those it reads (docs/slurm.md).
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from clinrep.config import InputError
from clinrep.file_access import limit_access
from clinrep.run import EXIT_INPUT
from clinrep.slurm import jobs, sbatch_file, study_runs
from clinrep.slurm.check import check_commands
from clinrep.slurm.grid import (
    GRID_FILE,
    Grid,
    Submission,
    combine,
    find_default_dir,
    hold,
    make_grid,
    name_default_dir,
    parse_axes,
    read_grid,
)
from clinrep.slurm.states import FINISHED, UNDER_WAY, find_states

# options of sbatch that a grid sets itself, or that would keep it from knowing its jobs
NOT_FOR_GRIDS = {"array", "output", "error", "open-mode", "parsable", "test-only", "wait", "wrap", "no-requeue", "help"}


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong as the rest of the project does."""

    def error(self, message: str) -> NoReturn:
        """Raise an InputError instead of printing the usage."""
        raise InputError(f"{message}; see python -m clinrep.slurm --help")


def main(words: Sequence[str]) -> int:
    """Carry out one command and return the exit code: 1 where a local run did not finish."""
    parser = _make_parser()
    options, rest = parser.parse_known_args(words)
    if rest and options.command not in ("submit", "study"):
        raise InputError(f"unknown words {' '.join(rest)}; see python -m clinrep.slurm {options.command} --help")
    options.flags = [word for word in rest if word != "--"]
    with limit_access("owner_and_group"):  # logs and folders; the jobs inherit it
        return int(options.call(options))


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m clinrep.slurm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit", help="submit a grid, or what is missing of it", allow_abbrev=False)
    submit.add_argument("stage", help="stem of the script, as 02_finetune")
    submit.add_argument(
        "--grid", nargs="+", action="extend", required=True, metavar="SETTING=VALUE,VALUE", help="what varies"
    )
    submit.add_argument("--dry_run", action="store_true", help="check and print, submit nothing")
    submit.set_defaults(call=_submit)
    status = commands.add_parser("status", help="show what runs, failed or finished", allow_abbrev=False)
    status.add_argument("stage", nargs="?", help="stem of the script; without it all grids of RUN_DIR are shown")
    status.add_argument("--rerun", action="store_true", help="submit what is missing, failed or stopped")
    status.set_defaults(call=_show_status)
    whole = commands.add_parser("study", help="submit all of a study, or what is missing of it", allow_abbrev=False)
    whole.add_argument("file", help="YAML of the study; further words are its settings, as --run_dir.mimic DIR")
    whole.add_argument("--dry_run", action="store_true", help="check and print all runs, submit nothing")
    whole.set_defaults(call=study_runs.carry_out)
    for command in (submit, status):
        command.add_argument("--grid_dir", type=Path, help="folder of the grid; RUN_DIR/<stage>_grid without it")
    for command in (submit, status, whole):
        command.add_argument("--cluster", choices=("slurm", "local"), default="slurm", help="local: this machine")
        command.add_argument("--max_parallel", type=int, help="runs at a time; without it 1 locally, all on Slurm")
    for command in (submit, status):
        command.add_argument(
            "--sbatch",
            nargs="+",
            action="extend",
            default=[],
            metavar="OPTION=VALUE",
            help="in place of #SBATCH lines, as nodes=2",
        )
    check = commands.add_parser("check", help="check commands that slurm/launch.sh printed (for slurm/pipeline.sh)")
    check.add_argument("--is_pending", action="store_true", help="inputs may be missing still")
    check.set_defaults(call=_check)
    return parser


def _submit(options: argparse.Namespace) -> int:
    sbatch_file.find_file(options.stage)
    directory = _find_dir(options)
    axes, changes = parse_axes(options.grid), _parse_changes(options)
    grid = _change(make_grid(options.stage, directory, axes, options.flags), changes)
    check_commands(list(grid.read_commands().values()), is_pending="dependency" in changes)
    jobs.resolve_options(grid)
    if options.dry_run:
        return _print_plan(grid, options)
    is_new = not directory.exists()
    try:
        with hold(directory):  # and what another process may have submitted meanwhile
            grid = _change(make_grid(options.stage, directory, axes, options.flags), changes)
            return _start_missing(grid, combine(axes), options)
    except InputError:
        if is_new and directory.exists() and not read_grid(directory).submissions:
            shutil.rmtree(directory)  # nothing was submitted: leave nothing
        raise


def _show_status(options: argparse.Namespace) -> int:
    changes = _parse_changes(options)
    directories = [_find_dir(options)] if options.stage or options.grid_dir else _find_grids()
    grids = [read_grid(directory) for directory in directories]
    for grid in grids:
        if options.stage and options.stage != grid.stage:
            raise InputError(f"{grid.directory} is a grid of {grid.stage}, not of {options.stage}; leave out the stage")
    if not options.rerun:
        for grid in grids:
            _print_states(grid)
        return 0
    for grid in grids:  # all, before one is submitted
        check_commands(list(grid.read_commands().values()))
    code = 0
    for directory in directories:
        print(f"{directory}:")
        with hold(directory):
            grid = _change(read_grid(directory), changes)
            code = max(code, _start_missing(grid, grid.combinations, options))
    return code


def _check(options: argparse.Namespace) -> int:
    check_commands(list(sbatch_file.parse_commands(sys.stdin.buffer.read())), options.is_pending)
    return 0


def _find_dir(options: argparse.Namespace) -> Path:
    return (options.grid_dir or find_default_dir(options.stage)).absolute()


def _find_grids() -> list[Path]:
    run_dir = find_default_dir("00_tokenize").parent
    found = sorted(path.parent for path in run_dir.glob(f"*/{GRID_FILE}"))
    if not found:
        raise InputError(f"no grid lies in {run_dir}; submit one, or name its folder by --grid_dir")
    return found


def _parse_changes(options: argparse.Namespace) -> dict[str, str]:
    """Return the options of sbatch given in place of #SBATCH lines."""
    if options.max_parallel is not None and options.max_parallel < 1:
        raise InputError(f"--max_parallel is {options.max_parallel} but must be 1 or more; leave it out")
    pairs = [word.removeprefix("--").partition("=") for word in options.sbatch]
    for name, _, value in pairs:
        if not re.fullmatch("[a-z]+(-[a-z]+)*", name) or name in NOT_FOR_GRIDS:
            raise InputError(
                f"--sbatch {name}={value}: no option of sbatch for a grid; write as nodes=2 partition=short"
            )
    return {name: value for name, _, value in pairs}


def _change(grid: Grid, changes: dict[str, str]) -> Grid:
    return replace(grid, sbatch=grid.sbatch | changes)


def _start_missing(grid: Grid, asked: Collection[str], options: argparse.Namespace) -> int:
    """Start what is asked for and neither finished nor under way; return 1 where a local run did not finish."""
    states = {name: state for name, state in find_states(grid).items() if name in asked}
    names = [name for name, state in states.items() if state.word not in UNDER_WAY]
    for word, count in Counter(state.word for state in states.values() if state.word in UNDER_WAY).items():
        print(f"{count} {word}, left alone")
    if not names:
        return 0
    one = replace(grid, combinations={names[0]: grid.combinations[names[0]]})
    command = one.read_commands()[names[0]]
    grid = replace(grid, site=command.site)
    grid.save()  # before anything is submitted, so that a second try finds a grid
    if options.cluster == "local":
        return _run_here(grid, names, options.max_parallel, command)
    with sbatch_file.job_environment(command, grid.sbatch):
        submitted = jobs.submit_to_slurm(grid, names, options.max_parallel)
    grid = replace(grid, submissions=grid.submissions | submitted)
    grid.save()
    for name, job in submitted.items():
        print(f"job {job.job_id:10} {name}")
    print(f"logs in {grid.directory / 'jobs'}; see python -m clinrep.slurm status {_name(grid)}")
    return 0


def _name(grid: Grid) -> str:
    """Return the words by which status finds a grid."""
    is_usual = grid.directory == name_default_dir(grid.stage, grid.site)
    return grid.stage if is_usual else f"--grid_dir {shlex.quote(str(grid.directory))}"


def _run_here(grid: Grid, names: Sequence[str], max_parallel: int | None, command: sbatch_file.Command) -> int:
    """Run combinations on this machine, tell of each, and return 1 where one did not finish."""
    submissions, ended = dict(grid.submissions), dict[str, str]()

    def report(task: jobs.Task, job: Submission, has_ended: bool) -> None:
        """Keep and print that a run has started or ended."""
        name = task.name
        submissions[name] = job
        now = replace(grid, submissions=submissions)
        now.save()
        if has_ended:
            state = find_states(replace(now, combinations={name: grid.combinations[name]}))[name]
            ended[name] = state.word
            print(f"{state.word:8} {name}{': ' if state.reason else ''}{state.reason}", flush=True)
        else:
            print(f"starting {name} ({job.log})", flush=True)

    jobs.run_here([jobs.Task(grid, name, command) for name in names], max_parallel, report)
    return int(any(word != FINISHED for word in ended.values()))


def _print_plan(grid: Grid, options: argparse.Namespace) -> int:
    resources = jobs.resolve_options(grid)
    shown = " ".join(f"--{name}{'=' if value else ''}{value}" for name, value in resources.items())
    print(f"grid     {grid.directory}")
    print(f"each job {'this machine' if options.cluster == 'local' else shown}")
    commands = grid.read_commands()
    for name, state in find_states(grid).items():
        word = state.word if state.word in UNDER_WAY else "to start"
        print(f"{word:8} {name}\n         {shlex.join(commands[name].argv)}")
    return 0


def _print_states(grid: Grid) -> None:
    states = find_states(grid)
    counts = Counter(state.word for state in states.values())
    print(f"{grid.directory} ({grid.stage}): " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    for name, state in states.items():
        job = grid.submissions.get(name)
        print(f"  {state.word:8} {job.job_id if job else '-':10} {name}{': ' if state.reason else ''}{state.reason}")
        if job and state.word not in UNDER_WAY:
            print(f"           {job.log}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, OSError) as error:
        print(f"clinrep.slurm: error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except KeyboardInterrupt:
        print("clinrep.slurm: interrupted", file=sys.stderr)
        sys.exit(130)
