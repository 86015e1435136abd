"""Settings of the five stages for hospital records."""
