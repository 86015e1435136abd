"""How this project trains: transformers.Trainer with a stop that all ranks agree on and an exact resume."""

from clinrep.training.loop import save_model, train
from clinrep.training.stop_signal import StopSignal
from clinrep.training.token_loss import mean_token_loss

__all__ = ["StopSignal", "mean_token_loss", "save_model", "train"]
