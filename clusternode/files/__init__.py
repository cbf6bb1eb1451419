"""Files that come with jobs and of them: kept by their SHA-256, moved between nodes in pieces."""
