"""A run: its options, name, folder and record, and who may resume it."""
