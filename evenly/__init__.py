"""What a user of Evenly imports and runs. It talks to the two programs, and never imports them.

from evenly import task, progress
"""

from evenly.tasks import progress, task

__all__ = ["progress", "task"]
