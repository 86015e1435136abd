"""One run of one stage: its directory, log, provenance, inputs and DONE; and `verify`, which checks them later."""

from clinrep.run.stage_run import (
    EXIT_INPUT,
    EXIT_STOPPED,
    Run,
    RunError,
    open_run,
    run_stage,
    show_progress,
)

__all__ = ["EXIT_INPUT", "EXIT_STOPPED", "Run", "RunError", "open_run", "run_stage", "show_progress"]
