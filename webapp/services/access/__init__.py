"""How the person Roost belongs to proves it: a link that works once, and a key for scripts."""
