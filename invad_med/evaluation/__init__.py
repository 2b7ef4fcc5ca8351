"""Evaluation of a model on the test split of a data set, beside baselines, with intervals."""
