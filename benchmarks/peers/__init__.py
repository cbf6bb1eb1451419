"""Other systems on the same work, where they are installed: two workers each, on this machine."""
