"""What a user of Evenly imports and runs. It talks to the two programs, and never imports them.

from evenly import checkpoint, partial, progress, task
"""

from evenly.checkpoints import CheckpointError, checkpoint
from evenly.tasks import partial, progress, task

__all__ = ["CheckpointError", "checkpoint", "partial", "progress", "task"]
