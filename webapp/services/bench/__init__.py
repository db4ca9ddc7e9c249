"""The tool bench: how well the loaded model calls tools, case by case."""
