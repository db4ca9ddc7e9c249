"""A chat's turns: the answer being written, who watches it, and what its calls do."""
