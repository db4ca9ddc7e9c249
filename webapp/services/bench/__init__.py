"""Benches: how well the loaded model calls tools (the tool bench), and how fast it runs here (:mod:`.speed`)."""
