"""The files of the models folder: added, deleted and restored."""
