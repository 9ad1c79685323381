#!/usr/bin/env python3
"""WordNet as a reverse dictionary: queries are definitions, answers are words.

    pipelines/search/wordnet.py FOLDER [--synsets N] [--queries N] [--source /usr/share/wordnet]

A synset is one sense: a definition and the words that have it. One in twenty is for the test, chosen by a
hash of its offset, so no definition is seen in training and asked in the test. FOLDER receives

    train.tsv             query, answer, group      one line for each word of each synset; group: the synset;
                                                    and each word of corpus.txt as its own query: what is
                                                    searched in is known, the test's definitions are not
    test.tsv              query, answers            one line a synset; answers: its words, separated by |
    corpus.txt            one word a line           words of all synsets that were taken: all other senses
                                                    are there as distractors

--synsets takes that many synsets (the first of a shuffled order that their hash fixes), --more that many of
the next ones to train on only: their words are not searched in. --queries asks at most that many in the test. Same files in, same bytes out. The files of Debian's wordnet-base are
checked by wordnet.sha256 beside this script.
"""
import argparse
import hashlib
import os
import re
import sys

PARTS = ("noun", "verb", "adj", "adv")


def fail(text):
    sys.exit(f"kd: {text}")


def checked(source, part, sums):
    path = os.path.join(source, f"data.{part}")
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError as e:
        fail(f"{path}: {e.strerror}; install it: apt-get install wordnet-base")
    found = hashlib.sha256(data).hexdigest()
    if sums.get(f"data.{part}") != found:
        fail(f"{path}: sha256 {found[:16]}..., expected {sums.get(f'data.{part}', '?')[:16]}...: another version of "
             "WordNet than 3.0 of Debian's wordnet-base; figures would not compare")
    return data.decode("utf-8")


def definition(gloss):
    """The gloss without its examples, which stand in quotes behind it."""
    text = re.split(r'; *"', gloss, maxsplit=1)[0]
    return " ".join(text.strip(" ;").split())


def synsets(text, part):
    """(key, definition, words) of each line: offset, file, type, words in hex, word and id pairs, ... | gloss."""
    for line in text.splitlines():
        if line.startswith("  "):
            continue
        head, gloss = line.split(" | ", 1)
        field = head.split(" ")
        words = []
        for i in range(int(field[3], 16)):
            word = re.sub(r"\((a|p|ip)\)$", "", field[4 + 2 * i]).replace("_", " ").lower()
            if word not in words:
                words.append(word)
        query = definition(gloss)
        if query and not query.startswith('"'):
            yield part + field[0], query, words


def order(key):
    return hashlib.sha256(key.encode()).hexdigest()


def write(folder, name, lines):
    path = os.path.join(folder, name)
    with open(path + ".part", "w", encoding="utf-8") as f:
        f.writelines(line + "\n" for line in lines)
    os.replace(path + ".part", path)


def pairs(chosen, corpus):
    """Definitions with their words, then each word of the corpus with itself, in a group of its own."""
    yield "query\tanswer\tgroup"
    for group, query, words in chosen:
        for word in words:
            yield f"{query}\t{word}\t{group}"
    first = max(group for group, _, _ in chosen) + 1
    for i, word in enumerate(corpus):
        yield f"{word}\t{word}\t{first + i}"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--synsets", type=int, default=0, help="0: all")
    p.add_argument("--more", type=int, default=0)
    p.add_argument("--queries", type=int, default=0, help="0: all")
    p.add_argument("--source", default="/usr/share/wordnet")
    args = p.parse_args()
    with open(os.path.join(os.path.dirname(__file__), "wordnet.sha256"), encoding="utf-8") as f:
        sums = {os.path.basename(line.split()[1]): line.split()[0] for line in f if line.strip()}
    every = []
    for part in PARTS:
        every += [(order(key), query, words) for key, query, words in synsets(checked(args.source, part, sums), part)]
    every.sort()
    cut = args.synsets or len(every)
    every, more = every[:cut], every[cut:cut + args.more]
    train, test = [], []
    for group, (key, query, words) in enumerate(every):
        (train if int(key[-8:], 16) % 20 else test).append((group, query, words))  # other digits than those that order
    if args.queries:
        test = test[:args.queries]
    train += [(len(every) + i, query, words) for i, (_, query, words) in enumerate(more)]
    os.makedirs(args.folder, exist_ok=True)
    write(args.folder, "test.tsv", ["query\tanswers"] + [f"{query}\t{'|'.join(words)}" for _, query, words in test])
    corpus = sorted({w for _, _, words in every for w in words})
    write(args.folder, "train.tsv", pairs(train, corpus))
    write(args.folder, "corpus.txt", corpus)
    print(f"{len(every)} synsets and {len(more)} more: {len(train)} to train on, {len(test)} to ask for; {len(corpus)} words to choose from")


if __name__ == "__main__":
    main()
