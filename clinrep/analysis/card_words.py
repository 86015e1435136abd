"""Sentences of the model card about models and tokenizer."""

from __future__ import annotations

from clinrep.analysis.card_facts import RunFacts, read_model, read_training
from clinrep.analysis.study import Study


def ask(what: str) -> str:
    """Return the words for what no run can know."""
    return f"[to be filled in: {what}]"


def describe_shape(run: RunFacts, folder: str) -> str:
    """Return the size of a saved model in words."""
    model = read_model(run, folder)
    if not model:
        return ask(f"{folder}/config.json is no longer there")
    tied = "tied" if model.get("tie_word_embeddings") else "separate"
    return (
        f"{' '.join(model.get('architectures') or ['transformer'])}: {tell(model.get('num_hidden_layers'))} layers, "
        f"width {tell(model.get('hidden_size'))}, {tell(model.get('num_attention_heads'))} heads "
        f"({tell(model.get('num_key_value_heads'))} of keys and values), feed-forward width "
        f"{tell(model.get('intermediate_size'))}, vocabulary of {tell(model.get('vocab_size'))} tokens, {tied} "
        f"embeddings, up to {tell(model.get('max_position_embeddings'))} positions, "
        f"{tell(model.get('num_parameters'))} parameters"
    )


def describe_pretraining(run: RunFacts) -> str:
    """Return how a backbone was trained and what came of it."""
    training, rows = read_training(run), run.done.get("rows", {})
    places = tell(run.get("global_batch_tokens"))
    words = [f"{tell(training.get('num_steps'))} optimizer steps of {places} places for tokens"]
    words.append(f"{tell(rows.get('tokens/train'))} tokens of training timelines an epoch")
    words.append(f"epochs asked for: {tell(run.get('training.num_epochs'))}, blocks of {tell(run.get('block_size'))}")
    words.append(f"learning rate {tell(run.get('training.learning_rate'))}, seed {tell(run.get('seed'))}")
    words.append(f"last loss {tell(training.get('loss'))} nats a token in training, best in validation")
    words[-1] += f" {tell(training.get('eval_loss'))}"
    words += ["continued from another backbone"] if run.get("backbone_dir") else []
    return "; ".join(words)


def describe_classifier(run: RunFacts) -> str:
    """Return what a classifier is, and how it was fine-tuned."""
    training = read_training(run)
    start = "a classifier" if run.get("classifier_dir") else "the backbone"
    adapters = f", low-rank adapters of rank {run.get('lora.rank')}" if run.get("lora.rank") else ""
    words = [
        describe_shape(run, "classifier"),
        f"fine-tuned from {start}{adapters}",
        f"on a share of {tell(run.get('training_fraction'))} of the training patients",
        f"{tell(training.get('num_steps'))} steps of {tell(run.get('global_batch_size'))} stays",
        f"loss {tell(run.get('loss')).replace('_', ' ')}",
        f"learning rate {tell(run.get('training.learning_rate'))}",
        f"sequences of up to {tell(run.get('max_length'))} tokens",
        f"best weights by validation {tell(run.get('metric_for_best'))} (loss {tell(training.get('eval_loss'))})",
        f"seed {tell(run.get('seed'))}",
    ]
    return "; ".join(words)


def describe_tokenizer(study: Study, run: RunFacts) -> str:
    """Return what the words of the timelines are."""
    sizes = study.sites[0].token_embeddings.group_by("kind", maintain_order=True).len()
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sizes.iter_rows())
    origin = "learned at another site and applied" if run.get("tokenizer_dir") else "learned on the training split"
    return (
        f"{origin}; {study.sites[0].token_embeddings.height:,} tokens ({kinds}); {tell(run.get('num_bins'))} quantile "
        f"bins per category and unit, an event with a value as {tell(run.get('token_style'))} tokens; gaps with tokens "
        f"{tell(run.get('gap_minutes') or 'none')}, hours of clock tokens {tell(run.get('clock_hours') or 'none')}"
    )


def tell(value: object) -> str:
    """Return a setting in words; one that its run no longer tells is to be filled in."""
    if value is None:
        return ask("not known to the run")
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
