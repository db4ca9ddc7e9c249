"""The Tools pages: definitions edited in a form with their JSON beside them, tried out, imported and exported."""
