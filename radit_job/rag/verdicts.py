"""A yes or no in a judge's answer, and which of two answers it prefers; as with scores, never a guess."""

from __future__ import annotations

import re

from radit_job.rag.judgement import Reading, plain

YES = r"yes|yeah|yep|ja|oui|sí|sì|si|sim|да|tak|evet|ano|是的?|はい|예|네|हाँ|نعم"
NO = r"no|nope|nein|non|não|нет|nie|nee|nej|hayır|ne|否|不是|いいえ|아니(?:요|오)|नहीं|لا"
_ENDS = r"(?![^\W\u3040-\u9fff\uac00-\ud7a3])"
_ANSWER = (
    r"answer|verdict|judge?ment|conclusion|response|result|supported|relevant|antwort|réponse|respuesta|risposta|resposta"
    r"|ответ|答案|回答|答え|답변|답"
)
_FIRST = re.compile(rf"[\W_]*(?:(?P<yes>{YES})|(?P<no>{NO})){_ENDS}(?!\s+(?:doubt|problem|and\s+no\b)|\.\s*\d)", re.I)
_STATED = re.compile(
    rf"\b(?:{_ANSWER})\b\s*(?:is|ist|est|es|è|é|would\s+be|should\s+be)?\s*[:=\-–]?[\s\[(]*(?:(?P<yes>{YES})|(?P<no>{NO})){_ENDS}"
    rf"|^[\W_]*(?:(?P<yes_line>{YES})|(?P<no_line>{NO}))[\W_]*$",
    re.I | re.M,
)
_CAPITALS = re.compile(r"\b(?:(?P<yes>YES)|(?P<no>NO))\b")
_SUPPORTED = re.compile(
    r"(?P<no>\b(?:is|are|was)\s+not\s+(?:\w+\s+)?(?:supported|in\s+line)\b|\bunsupported\b|^\W*not\s+(?:supported|in\s+line)\b"
    r"|\bdoes\s+not\s+(?:\w+\s+)?support\b|不支持)"
    r"|(?P<yes>(?<!that )\b(?:is|are|was)\s+(?:fully\s+|clearly\s+|directly\s+)?(?:supported|in\s+line)\b"
    r"|^\W*(?:fully\s+)?supported\b)",
    re.I | re.M,
)
_HEDGED = re.compile(
    r"\b(?:partially|partly|neither|either|to\s+some\s+extent|yes\s*(?:/|and|or|und|oder)\s*no)\b", re.I
)
# The relevancy prompt's own words: small judges repeat them.
_PROMPT = "if the response for the query"
# A model that goes on after its answer writes the prompt's next example.
_NEXT_EXAMPLE = re.compile(r"\n\s*(?:Information|Query and Response|Context)\s*:.*", re.DOTALL)


def read_yes_no(text: str) -> Reading:
    """1 for yes, 0 for no.

    How the answer begins counts, then what stands behind "Answer:" or on a line of its own, then capitals, then whether
    something is called supported; where it says both, none is taken.
    """
    if not text.strip():
        return Reading(None, "an empty answer")
    said = _NEXT_EXAMPLE.sub("", plain(text))
    if _PROMPT in said.lower():
        return Reading(None, "the prompt's own words")
    if _HEDGED.match(said.lstrip(" -([")) or re.match(r"\W*yes\s*/\s*no\b", said, re.I):
        return Reading(None, "neither yes nor no")
    first = _FIRST.match(said)
    found = [first] if first else []
    found += list(_STATED.finditer(said)) or ([] if first else list(_CAPITALS.finditer(said)))
    found = found or ([] if _HEDGED.search(said) else list(_SUPPORTED.finditer(said)))
    values = {
        float(any(name.startswith("yes") and part for name, part in match.groupdict().items())) for match in found
    }
    if len(values) > 1:
        return Reading(None, "both yes and no")
    return Reading(values.pop()) if values else Reading(None, "neither yes nor no")


_VERDICT = re.compile(r"\[\[\s*(A|B|C|tie)\s*\]\]", re.I)
_LETTER = re.compile(
    r"^\W*(?:(?:my\s+)?(?:final\s+)?(?:verdict|answer|choice|decision|winner)\s*(?:is)?\s*:?\s*)?\W*(?:assistant\s+)?(A|B|C|tie)\W*$"
    r"|\b(?:verdict|winner|choice)\s*(?:is)?\s*:?\s*\W{0,2}(?:assistant\s+)?(A|B|C|tie)\b(?!\s+[a-z])",
    re.I | re.M,
)
_BETTER = re.compile(
    r"\bassist\w*\s+(A|B)(?:'s)?(?:\s+(?:answer|response))?\s+(?:is|was|wins|ist|est|es|è)\b(?!\s+not)"
    r"(?:\s+(?:the|much|far|a|slightly|clearly|overall|also))*\s*"
    r"(?:better|best|superior|winner|besser|meilleure?|mejor|migliore|melhor)|\bassistant\s+(A|B)\s+wins\b"
    r"|(\b(?:it\s+is|it's|this\s+is|is)\s+a\s+tie\b|\bboth\s+(?:answers|responses|assistants)\s+are\s+equally\b"
    r"|\bneither\s+(?:answer\s+|response\s+|assistant\s+)?is\s+better\b)",
    re.I,
)
_PREFERENCES = {"A": 1.0, "B": 0.0, "C": 0.5}


def read_preference(text: str) -> Reading:
    """1 where answer A is better, 0 where B is, 0.5 for a tie.

    [[A]], [[B]] or [[C]] as it was asked for; where there is none, a letter as the verdict, or a sentence that says it.
    """
    if not text.strip():
        return Reading(None, "an empty answer")
    for form in (_VERDICT, _LETTER, _BETTER):
        found = {_preference(match) for match in form.finditer(plain(text))}
        if len(found) > 1:
            return Reading(None, "several verdicts")
        if found:
            return Reading(found.pop())
    return Reading(None, "no verdict")


def read_cut_preference(text: str) -> Reading:
    """As `read_preference`, of an answer that was cut: what it weighs on the way to its verdict is none yet."""
    found = {_preference(match) for match in _VERDICT.finditer(plain(text))}
    if len(found) > 1:
        return Reading(None, "several verdicts")
    return Reading(found.pop()) if found else Reading(None, "cut before its verdict")


def _preference(match: re.Match[str]) -> float:
    said = next(group for group in match.groups() if group).upper()
    return _PREFERENCES.get(said, _PREFERENCES["C"])
