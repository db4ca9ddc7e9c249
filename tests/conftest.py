"""What every test can count on."""

import os

# The terminal speaks the language of whoever runs the tests; most of them read English, those of Chinese ask for it.
os.environ["ROOST_LANG"] = "en"
