"""Arguments, task table, data, models and evaluation that the five scripts under `examples/` share."""
