"""A bundle that can leave a hospital: models, tokenizer and aggregate scores, and nothing of a patient."""
