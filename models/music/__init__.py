"""Two tiny music models, for tests and demonstrations: their training data and training. Contains no weights."""
