"""What a browser shows of the package's HTML, and what an untrusted notebook would strip."""

import re
from html.parser import HTMLParser

FORBIDDEN = re.compile(r"<(style|script|svg)|var\(|color-mix\(|\son\w+=|javascript:", re.IGNORECASE)


class Shown(HTMLParser):
    """The text that a browser shows, the tags it sees, and their attributes."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.tags, self.attributes = "", [], []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data):
        self.text += data
