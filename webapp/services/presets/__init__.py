"""Presets: the active one, saving and applying, their parameters, their files."""
