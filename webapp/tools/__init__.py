"""What a model may call: definitions, the check of arguments, and what happens when a tool runs."""
