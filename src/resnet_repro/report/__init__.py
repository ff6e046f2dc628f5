"""Finished runs as figures, tables, one page and a report on Weights & Biases."""
