"""Two tiny music models, for tests and demonstrations: what they are trained on and how. No weights are kept here."""
