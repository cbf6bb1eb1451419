"""Running commands: a pool of helper processes, one for each slot, each the supervisor of its job."""
