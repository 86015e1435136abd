"""The leakage audit: what in the inputs, splits or statistics could tell a model what it is to predict."""
