"""What server.py, which is a program of its own, and its tests both know."""

AT_ONCE = 8
HTML = "<script>alert(1)</script><b>bold</b> & done"
NAMES = ["echo", "get_weather", "gather", "fail", "big", "html", "picture", "structured", "grow"]
