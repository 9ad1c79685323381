#!/bin/sh
# Texts from files to a search: pairs of a query and its answer are packed, a student learns them by contrast, without a teacher and
# from one, kd-run embeds and searches, kd-eval says what it finds, and Python comes to the same figures from the vectors alone.
. "$(dirname "$0")/common"
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive # other tests may use the same cores
D=$KD_BIN/kd-dump T=$KD_BIN/kd-train R=$KD_BIN/kd-run E=$KD_BIN/kd-eval
/usr/bin/python3 - <<'P'
import random
random.seed(1)
letters = "bcdfghjklmnpqrstvwxz"
words = [a + e + b for a in letters for e in "aeiou" for b in letters][:400]
random.shuffle(words)
with open("vocab.txt", "w") as f:
    f.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + words) + "\n")
topics = [words[4 * i:4 * i + 4] for i in range(60)]  # three words that ask, one that answers
rest = words[240:]
query = lambda t: " ".join(random.sample(t[:3], 2) + random.sample(rest, random.randrange(3)))
with open("train.tsv", "w") as f:
    f.write("query\tanswer\tgroup\n")
    f.writelines(f"{query(t)}\t{t[3]}\t{i}\n" for _ in range(16) for i, t in enumerate(topics))
with open("test.tsv", "w") as f:
    f.write("query\tanswers\n")
    f.writelines(f"{query(t)}\t{t[3]}\n" for t in topics[:30])
    f.write(f"{query(topics[3])}\t{topics[3][3]}|{topics[4][3]}\n")
with open("corpus.txt", "w") as f:
    f.writelines(f"{t[3]}\n" for t in topics)
    f.writelines(f"{w}\n" for w in rest)
P
cat >data.yaml <<'Y'
data: {train_input: [train.tsv], tokenizer: vocab.txt, text_columns: [query, answer], label_column: group, test_fraction: 0}
Y
cat >small.yaml <<'Y'
model: {arch: bert, layers: 1, width: 24, heads: 2, ffn: 48, positions: 32, output: 16}
loss: [{name: contrastive, symmetric: true, prefixes: 16 8}]
train: {epochs: 8, batch: 64, lr: 0.02}
Y
cat >taught.yaml <<'Y'
model: {arch: bert, layers: 1, width: 16, heads: 2, ffn: 32, positions: 32, output: 12}
loss: [{name: contrastive, weight: 0.3}, {name: contrastive_kl, temperature: 0.1}, {name: embed, projection: linear}]
train: {epochs: 20, batch: 64, lr: 0.02}
Y
check "pairs are packed" "$D" data.yaml -o s.kd
check "a student learns them by contrast" "$T" -s s.kd small.yaml -o teacher --threads 1
check "its folder has the tokenizer" cmp vocab.txt teacher/vocab.txt
check "it embeds the store's texts" "$D" --teacher teacher --into s.kd --name big
check "another learns from it, and without it" "$T" -s s.kd taught.yaml -o students --control --threads 1
check "the control keeps its own contrast" grep -q '"contrastive"' students/taught/plain/seed-0/metrics.jsonl
same "and nothing of the teacher" "$(grep -c contrastive_kl students/taught/plain/seed-0/metrics.jsonl)" 0
check "queries find answers" "$E" --documents corpus.txt --questions test.tsv --teacher teacher students --results r.json
same "the teacher most of them" "$(jq '[.models[] | select(.role == "teacher").mrr10][0] > 0.8' r.json)" true
same "and its student" "$(jq -c '[.models[] | select(.role == "distilled")] | .[0] | if .mrr10 > 0.6 and .overlap10 > 0.3 and .tau > 0.1 then true else . end' r.json)" true
check "the vectors come out as .npy" "$R" embed --unit students/taught/distilled/seed-0 corpus.txt -o docs.npy
tail -n +2 test.tsv | cut -f 1 >queries.txt
check "of queries, too" "$R" embed --unit students/taught/distilled/seed-0 queries.txt -o queries.npy
check "of the teacher" "$R" embed --unit teacher corpus.txt -o tdocs.npy
check "and its queries" "$R" embed --unit teacher queries.txt -o tqueries.npy
cat >twin.py <<'P'
import json, numpy as np
docs = open("corpus.txt").read().split("\n")[:-1]
rows = [l.split("\t") for l in open("test.tsv").read().split("\n")[1:-1]]
def ranking(d, q):
    s = np.load(q).astype("f8") @ np.load(d).astype("f8").T
    return s, np.argsort(-s, axis=1, kind="stable")[:, :100]
s, order = ranking("docs.npy", "queries.npy")
ts, torder = ranking("tdocs.npy", "tqueries.npy")
rr, recall, tau = [], {1: [], 10: [], 100: []}, []
for i, (_, answers) in enumerate(rows):
    right = {docs.index(a) for a in answers.split("|")}
    at = [k for k in range(100) if order[i, k] in right]
    rr.append(1 / (at[0] + 1) if at and at[0] < 10 else 0)
    for k in recall:
        recall[k].append(len(right & set(order[i, :k])) / len(right))
    a, b = ts[i, torder[i]], s[i, torder[i]]
    x, y = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    tau.append((x * y).sum() / np.sqrt((x != 0).sum() * (y != 0).sum()))
want = dict(mrr10=np.mean(rr), recall1=np.mean(recall[1]), recall10=np.mean(recall[10]), recall100=np.mean(recall[100]),
            overlap10=np.mean([len(set(order[i, :10]) & set(torder[i, :10])) / 10 for i in range(len(rows))]), tau=np.mean(tau))
got = [m for m in json.load(open("r.json"))["models"] if m["role"] == "distilled"][0]
off = {k: abs(got[k] - v) for k, v in want.items()}
print("same" if max(off.values()) < 2e-3 else (off, want))  # ties of floats may fall otherwise in double
P
same "Python finds the same" "$(/usr/bin/python3 twin.py)" same
found=$(head -n 1 queries.txt | "$R" search --json --top 3 -q teacher corpus.txt)
same "a query finds three texts" "$(echo "$found" | jq '.hits | length')" 3
same "its answer first" "$(echo "$found" | jq -r '.hits[0].text')" "$(sed -n 2p test.tsv | cut -f 2)"
same "in int8, too" "$(head -n 1 queries.txt | "$R" search --int8 --top 1 -q teacher corpus.txt | cut -f 3 | head -n 1)" "$(sed -n 2p test.tsv | cut -f 2)"
one=$("$T" -s s.kd taught.yaml -o t1 --threads 1 --json | jq -r '.students[0].weight_hash')
for n in 2 3 8; do
  same "the same weights with $n threads" "$("$T" -s s.kd taught.yaml -o "t$n" --threads "$n" --json | jq -r '.students[0].weight_hash')" "$one"
done
printf 'query\tanswers\nx\tnowhere\n' >wrong.tsv
refused 3 "wrong.tsv:2: answer 'nowhere' is none of the 220 documents" "an answer that is no document is named" \
  "$E" --documents corpus.txt --questions wrong.tsv teacher
refused 2 "belong together" "documents need questions" "$E" --documents corpus.txt teacher
refused 3 "no text to search in" "nothing is not searched" "$R" search teacher /dev/null
refused 2 "kd-run search STUDENT FILE" "search needs a file" "$R" search teacher
finish
