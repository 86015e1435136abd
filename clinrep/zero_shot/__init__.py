"""Zero-shot answers: how often continuations sampled from a pretrained backbone hold an outcome."""
