"""The files of the models folder: how they come, go and come back."""
