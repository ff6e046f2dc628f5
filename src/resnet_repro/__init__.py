"""Reproduce the two ResNet papers."""
