"""A chat's turns: generating the answer, the viewers that follow it, and its tool calls."""
