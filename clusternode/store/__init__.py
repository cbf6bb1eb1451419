"""The node's stable storage."""
