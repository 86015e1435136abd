"""How this project trains: transformers.Trainer with a stop that all ranks agree on and an exact resume."""

from clinrep.training.attention import PACKED_ATTENTION
from clinrep.training.layer_rates import make_rate_factors
from clinrep.training.loop import check_share, check_start, save_model, train
from clinrep.training.lora import add_lora, merge_lora
from clinrep.training.task import Task
from clinrep.training.token_loss import mean_token_loss

__all__ = [
    "PACKED_ATTENTION",
    "Task",
    "add_lora",
    "check_share",
    "check_start",
    "make_rate_factors",
    "mean_token_loss",
    "merge_lora",
    "save_model",
    "train",
]
