"""The ReverseProxy: takes jobs from the nodes, spreads them evenly, brings their results home."""
