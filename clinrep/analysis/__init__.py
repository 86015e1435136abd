"""Probes, scores with intervals, cohort tables, figures and the report of stage 04."""
