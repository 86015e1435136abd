"""Keep the libraries from the network: what is computed here stays on this machine."""

from __future__ import annotations

import os

# Read by the libraries when they are imported. These are no settings: no run may send anything.
_WORDS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # report_to: its files lie in the run, `wandb sync` sends them when a person says so. An older word of wandb for
    # offline: of the newer one transformers prints a line in every stage, with wandb or without.
    "WANDB_MODE": "dryrun",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_LOG_MODEL": "false",
}
# would make trackio send to a server instead of its local database
_REMOVED = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID")


def stay_offline() -> None:
    """Tell every library that it has no network, in this process and in those it starts; before they are imported."""
    os.environ.update(_WORDS)
    for name in _REMOVED:
        os.environ.pop(name, None)
