"""Decides; pure. `NodeCore.step(event, now)` gives the records to commit and the actions to release then."""
