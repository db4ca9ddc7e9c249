"""Benches: how well the loaded model calls tools (tool bench), and how fast it runs on this machine (:mod:`.speed`)."""
