"""Finished runs, tested as the papers test."""
