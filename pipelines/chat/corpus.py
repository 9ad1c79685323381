#!/usr/bin/env python3
"""English for a language model: chapters of a handbook, and questions about words with their answers.

    pipelines/chat/corpus.py FOLDER --handbook FOLDER [--words N] [--sections N] [--source /usr/share/wordnet]

FOLDER receives

    corpus.jsonl    {"text": ...} a section of The Debian Administrator's Handbook, its headings and paragraphs in order;
                    {"messages": [...]} a chat: somebody asks what a word of WordNet means, or what the handbook says of a
                    topic, and the assistant answers with the definition and its example, or the first paragraphs
    prompts.txt     questions of that kind that are in no chat of corpus.jsonl, for judging what students answer

--words takes that many synsets, --sections that many sections of the handbook (0: all), the first of a shuffled
order that their hashes fix. Same files in, same bytes out: what is read is checked by corpus.sha256 beside this
script.
"""
import argparse
import hashlib
import html.parser
import json
import os
import re
import sys

PARTS = ("noun", "verb", "adj", "adv")
KINDS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
PROMPTS = 20
ASKED = ("What does the {kind} '{word}' mean?", "Define the {kind} '{word}'.", "What is the meaning of '{word}' as a {kind}?",
         "Explain the {kind} '{word}' in one sentence.")


def fail(text):
    sys.exit(f"kd: {text}")


def order(key):
    return hashlib.sha256(key.encode()).hexdigest()


def read(path, package):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        fail(f"{path}: {e.strerror}; install it: apt-get install {package}")


def check(found, expected, what, package):
    if found != expected:
        fail(f"{what}: sha256 {found[:16]}..., expected {expected[:16]}...: another version than that of Debian's {package}; "
             "figures would not compare")


# ---- the handbook --------------------------------------------------------------------------------


class Section(html.parser.HTMLParser):
    """Headings and paragraphs of a page in order; lists count as paragraphs, screens and tables are left out."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks, self.open, self.skip = [], [], 0

    def handle_starttag(self, tag, attrs):
        kind = dict(attrs).get("class", "")
        if tag in ("pre", "table", "head", "script") or (tag == "ul" and "docnav" in kind) or (tag == "p" and "id" in dict(attrs)):
            self.skip += 1
            self.open.append((tag, "skip"))
        elif tag in ("h1", "h2", "h3", "h4"):
            self.blocks.append(["heading", ""])
            self.open.append((tag, "block"))
        elif tag == "div" and kind == "para":
            self.blocks.append(["para", ""])
            self.open.append((tag, "block"))
        elif tag not in ("br", "img", "meta", "link", "hr", "input"):
            self.open.append((tag, ""))

    def handle_endtag(self, tag):
        while self.open:
            was, what = self.open.pop()
            self.skip -= what == "skip"
            if was == tag:
                break

    def handle_data(self, data):
        if not self.skip and self.blocks and any(what == "block" for _, what in self.open):
            self.blocks[-1][1] += data


def sections(folder, expected):
    """(key, heading, paragraphs) of each page with text."""
    digest = hashlib.sha256()
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if not name.endswith(".html"):
            continue
        data = read(os.path.join(folder, name), "debian-handbook")
        digest.update(name.encode() + hashlib.sha256(data).digest())
        page = Section()
        page.feed(data.decode("utf-8"))
        blocks = [(kind, " ".join(text.split())) for kind, text in page.blocks]
        blocks = [(kind, re.sub(r"^[0-9.]+\s+", "", text) if kind == "heading" else text) for kind, text in blocks]
        heading = next((text for kind, text in blocks if kind == "heading" and text), "")
        if heading and name.startswith("sect."):
            yield name, heading, [text for _, text in blocks if text]
    check(digest.hexdigest(), expected, folder, "debian-handbook")


# ---- WordNet ---------------------------------------------------------------------------------------


def synsets(source, sums):
    """(key, word, kind, answer): the answer is the definition as a sentence, with an example where there is one."""
    for part in PARTS:
        data = read(os.path.join(source, f"data.{part}"), "wordnet-base")
        check(hashlib.sha256(data).hexdigest(), sums[f"data.{part}"], f"{source}/data.{part}", "wordnet-base")
        for line in data.decode("utf-8").splitlines():
            if line.startswith("  "):
                continue
            head, gloss = line.split(" | ", 1)
            field = head.split(" ")
            word = re.sub(r"\((a|p|ip)\)$", "", field[4]).replace("_", " ")
            pieces = re.split(r'; *"', gloss.strip(), maxsplit=1)
            meaning = " ".join(pieces[0].strip(" ;").split())
            if not meaning or meaning.startswith('"'):
                continue
            answer = f"{word[0].upper()}{word[1:]}: {meaning}."
            example = pieces[1].split('"')[0].strip() if len(pieces) > 1 else ""
            yield part + field[0], word, KINDS[field[2]], answer + (f' For example: "{example}"' if example else "")


# ---- both ------------------------------------------------------------------------------------------


def chat(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def question(key, word, kind):
    return ASKED[int(order(key)[:8], 16) % len(ASKED)].format(word=word, kind=kind)


def write(folder, name, lines):
    path = os.path.join(folder, name)
    with open(path + ".part", "w", encoding="utf-8") as f:
        f.writelines(line + "\n" for line in lines)
    os.replace(path + ".part", path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--handbook", required=True, help="the handbook's html/en-US")
    p.add_argument("--words", type=int, default=0, help="0: all")
    p.add_argument("--sections", type=int, default=0, help="0: all")
    p.add_argument("--source", default="/usr/share/wordnet")
    args = p.parse_args()
    with open(os.path.join(os.path.dirname(__file__), "corpus.sha256"), encoding="utf-8") as f:
        sums = {line.split()[1]: line.split()[0] for line in f if line.strip()}
    pages = sorted(sections(args.handbook, sums["handbook"]), key=lambda s: order(s[0]))[:args.sections or None]
    words = sorted(synsets(args.source, sums), key=lambda s: order(s[0]))
    asked = [question(key, word, kind) for key, word, kind, _ in words[-PROMPTS:]]
    words = words[:min(args.words, len(words) - PROMPTS) if args.words else len(words) - PROMPTS]
    rows = [(key, chat(question(key, word, kind), answer)) for key, word, kind, answer in words]
    for name, heading, paragraphs in pages:
        rows.append((name, {"text": "\n\n".join(paragraphs)}))
        first = [text for text in paragraphs[1:] if len(text) > 80][:2]
        if first:
            rows.append((name + "?", chat(f"What does the Debian handbook say about '{heading}'?", " ".join(first))))
    rows.sort(key=lambda r: order(r[0] + "row"))
    os.makedirs(args.folder, exist_ok=True)
    write(args.folder, "prompts.txt", asked)
    write(args.folder, "corpus.jsonl", [json.dumps(row, ensure_ascii=False) for _, row in rows])
    print(f"{len(pages)} sections and {len(words)} words: {len(rows)} texts and chats, {sum(len(json.dumps(r)) for _, r in rows)} bytes")


if __name__ == "__main__":
    main()
