"""What is done with tools as a whole: the tool bench."""
