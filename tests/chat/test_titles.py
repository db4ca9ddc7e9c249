from webapp.chat.messages import title_of


def test_a_short_message_is_its_own_title():
    assert title_of("  What is\n a rook? ") == "What is a rook?"


def test_a_long_one_is_cut_between_words():
    title = title_of("Please explain the difference between a linear attention and a softmax attention")
    assert title == "Please explain the difference between a…"


def test_chinese_is_cut_after_any_character():
    title = title_of("请详细介绍一下循环神经网络和注意力机制之间的主要区别以及各自的优点")
    assert title == "请详细介绍一下循环神经网络和注意力机制之…"


def test_a_word_without_end_is_cut_anyway():
    assert title_of("x" * 100) == "x" * 40 + "…"


def test_nothing_gives_nothing():
    assert title_of(" \n") == ""
