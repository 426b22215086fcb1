"""Checks of HTML pages of reports: they are well formed and need no other file."""

from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Collects ids and outside references, and insists on balanced elements."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references, self.svg = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.svg += tag == "svg"
        assert tag not in ("script", "link", "img", "iframe")
        if "id" in values:
            self.ids.append(values["id"])
        self.references += [
            v for k, v in attrs if k in ("href", "xlink:href", "src") and not v.startswith("#")
        ]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page):
    """The page is well formed and points nowhere; what was seen in it."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.references == []
    assert len(checker.ids) == len(set(checker.ids))
    return checker
