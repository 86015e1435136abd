"""Low-rank adapters (LoRA) by peft: put beside the linear layers before training, and merged into them after.

peft's layers are injected into the model itself rather than wrapped around it: so checkpoints hold the whole model,
resume is what it is without adapters, and what is saved at the end is an ordinary model.
"""

from __future__ import annotations

import logging
from typing import TypeVar

import peft
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from clinrep import distributed
from clinrep.config import InputError
from clinrep.training_config import LoraConfig

logger = logging.getLogger("clinrep")
ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def add_lora(model: ModelT, config: LoraConfig, head: str, seed: int) -> ModelT:
    """Return `model` with seeded adapters, in place: they and the module called `head` alone are trained.

    At the start the adapters add nothing. With rank 0 there are none, and all weights are trained.

    Raises:
        InputError: a target is no linear layer of the model.
    """
    if not config.rank:
        return model
    known = sorted({name.rpartition(".")[2] for name, _ in model.model.layers[0].named_modules() if "proj" in name})
    for target in config.targets:
        if target not in known:
            raise InputError(f"lora.targets holds {target!r}, no linear layer of the model; known: {', '.join(known)}")
    distributed.seed_torch(distributed.derive_seed(seed, "lora"))
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    peft.inject_adapter_in_model(settings, model)
    for name, weight in model.named_parameters():
        weight.requires_grad = "lora_" in name or name.startswith(f"{head}.")
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    logger.info("LoRA of rank %d: %d of %d weights are trained", config.rank, trained, model.num_parameters())
    return model


def merge_lora(model: ModelT) -> ModelT:
    """Return `model` with the adapters, if there are any, added to the weights and gone, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    for weight in model.parameters():
        weight.requires_grad = True
    return model
