"""A chat's title becomes a file name, in any script, in a header that allows only Latin-1."""

import pytest

from webapp.web.kit.page import file_name_options


@pytest.mark.parametrize(
    "name, plain", [("Birds.md", "Birds.md"), ("怎样加载模型.json", "chat.json"), ("Hi 你好.md", "Hi .md")]
)
def test_a_file_name_fits_the_header(name, plain):
    options = file_name_options(name)
    assert options["filename"] == plain
    assert all(value.encode("latin-1") for value in options.values())
    assert ("filename*" in options) == (not name.isascii())


def test_a_chinese_chat_can_be_exported(roost):
    chat_id = roost.answered("怎样加载模型？")
    assert roost.get(f"/chat/{chat_id}/export.md").startswith("# 怎样加载模型")
