"""Adapters, model cards, publishing and evaluation of checkpoints on the Hub."""
