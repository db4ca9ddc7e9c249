"""The pages of states: initial states for new answers."""
