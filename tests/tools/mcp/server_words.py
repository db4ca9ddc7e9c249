"""Constants shared by server.py, which is a separate program, and its tests."""

AT_ONCE = 8
HTML = "<script>alert(1)</script><b>bold</b> & done"
NAMES = ["echo", "get_weather", "gather", "fail", "big", "html", "picture", "structured", "grow"]
