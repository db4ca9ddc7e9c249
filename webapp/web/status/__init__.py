"""The shell every page stands in, and the status strip with its menu: load, unload, cancel.

shell      what base.html needs; the list of the rail
strip      a ModelStatus in the reader's words
menu       the models that can be loaded
routes     fragments and the three commands
contexts   the dataclasses the templates take
"""
