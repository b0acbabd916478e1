"""What the scripts under `examples/` share: arguments, task table, models, schedules, evaluation. Imported by name."""
