#!/usr/bin/env python3
"""What students of texts keep of their teacher's MRR@10, from the results of the search pipeline: what `make bench-search` runs.

    bench/search.py runs/search/results.json [RESULTS_FOLDER]

    search-kept-8m, search-kept-2m   the best student of at most 8 and of at most 2 M parameters, embeddings included: mean over its
                                     seeds, in % of the teacher
"""
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import figure


def kept(models, teacher, most):
    """(percent, details) of the best distilled student of at most so many parameters."""
    by_name = defaultdict(list)
    for m in models:
        if m["role"] == "distilled" and m["params"] <= most:
            by_name[m["name"]].append(m)
    if not by_name:
        sys.exit(f"bench/search.py: no distilled student of at most {most} parameters")
    best = max(by_name.values(), key=lambda runs: statistics.mean(r["mrr10"] for r in runs))
    share = [100 * r["mrr10"] / teacher["mrr10"] for r in best]
    return statistics.mean(share), {"student": best[0]["name"], "params": best[0]["params"], "by_seed": [round(s, 2) for s in share],
                                    "teacher_mrr10": teacher["mrr10"]}


def main():
    results = json.loads(Path(sys.argv[1]).read_text())
    to = sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent / "results"
    teacher = next(m for m in results["models"] if m["role"] == "teacher")
    for name, most, bar in (("search-kept-8m", 8e6, 95), ("search-kept-2m", 2e6, 85)):
        value, details = kept(results["models"], teacher, most)
        details |= {"documents": results["documents"], "questions": results["questions"]}
        figure.save(to, name, round(value, 2), "% of the teacher's MRR@10", "make bench-search", bar=bar, details=details)
        print(f"{name}: {value:.2f} %, bar {bar} % ({details['student']})")


if __name__ == "__main__":
    main()
