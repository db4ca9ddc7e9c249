"""The page of states: what new answers can begin with."""
