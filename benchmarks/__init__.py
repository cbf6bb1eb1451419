"""Speed, side by side with something else in the same run: machines differ, ratios less so."""
