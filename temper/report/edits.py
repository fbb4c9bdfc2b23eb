"""What turns one text into another: the characters that differ (Levenshtein's alignment)."""

from __future__ import annotations


def edits(truth: str, answer: str) -> list[tuple[str, str]]:
    """A shortest list of (character of `truth`, character of `answer`); "" stands for one left out or added.

    Its length is the edit distance. Of several shortest alignments the one with substitutions as early as possible.
    """
    rows = [list(range(len(answer) + 1))]
    for i, a in enumerate(truth, 1):
        last, row = rows[-1], [i]
        for j, b in enumerate(answer, 1):
            row.append(min(last[j - 1] + (a != b), last[j] + 1, row[-1] + 1))
        rows.append(row)
    out: list[tuple[str, str]] = []
    i, j = len(truth), len(answer)
    while i or j:
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (truth[i - 1] != answer[j - 1]):
            i, j = i - 1, j - 1
            if truth[i] != answer[j]:
                out.append((truth[i], answer[j]))
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
            out.append((truth[i], ""))
        else:
            j -= 1
            out.append(("", answer[j]))
    return out[::-1]
