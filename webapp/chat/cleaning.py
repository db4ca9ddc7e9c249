"""The official cleaning of what people write, before it goes into a prompt.

BlinkDL/RWKV-LM, RWKV-v7/RWKV7-G1x-templates.txt: ``re.sub(r'\\n{2,}', '\\n', txt.replace('\\r\\n', '\\n')).strip()``.
Blank lines separate messages in every RWKV template, so this is also what keeps a pasted "\\n\\nAssistant:" from
becoming a turn of its own.
"""

from __future__ import annotations

import re


def cleaned(text: str) -> str:
    """``text`` for a user or system message: no blank lines, no outer whitespace."""
    return re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n")).strip()
