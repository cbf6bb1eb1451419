"""The ClusterNode: takes clients' lines, answers for its tickets, and runs jobs."""
