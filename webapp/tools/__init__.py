"""Tools that a model may call: definitions, checks of arguments, and running a tool."""
