from webapp.web.chat.viewer import Shown, difference


def rows(text):
    """ "a1 b1" -> messages a and b, each with fingerprint 1."""
    return [Shown(word[0], word[1:]) for word in text.split()]


def steps(shown, wanted):
    found = difference(rows(shown), rows(wanted))
    return "".join(found.removed), list(found.replaced), list(found.appended)


def test_nothing_to_do_for_the_same():
    assert steps("a1 b1", "a1 b1") == ("", [], [])


def test_new_messages_are_appended():
    assert steps("a1", "a1 b1 c1") == ("", [], [1, 2])


def test_another_version_replaces_it_and_what_follows():
    assert steps("a1 b1 c1", "a1 x1") == ("bc", [], [1])


def test_a_message_that_looks_different_is_replaced_in_place():
    assert steps("a1 b1 c1", "a1 b2 c1") == ("", [1], [])


def test_a_page_that_shows_only_the_end_keeps_to_it():
    assert steps("c1 d1", "a1 b1 c1 d2 e1") == ("", [3], [4])


def test_a_page_that_shows_another_branch_altogether_is_rendered_again():
    assert steps("x1 y1", "a1 b1") == ("xy", [], [0, 1])
    assert steps("", "a1") == ("", [], [0])
    assert steps("a1", "") == ("a", [], [])
