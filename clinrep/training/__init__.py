"""How this project trains: transformers.Trainer with a stop that all ranks agree on and an exact resume."""

from clinrep.training.attention import PACKED_ATTENTION
from clinrep.training.loop import check_share, check_start, save_model, train
from clinrep.training.task import Task
from clinrep.training.token_loss import mean_token_loss

__all__ = ["PACKED_ATTENTION", "Task", "check_share", "check_start", "mean_token_loss", "save_model", "train"]
