"""Questions about a text, each made of one sentence: some of them bad on purpose, so that filters have work."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.servers.openai_server.text import STOP_WORDS, draw, sentences, share_in, words

_AUXILIARY = re.compile(
    r"^(?P<subject>(?:[\w’'\-/.]+ ){1,8}?)(?P<verb>is|are|was|were|can|may|must|will|should|has|have|had) (?P<rest>.+)$"
)
_NUMBER = re.compile(r"\b(?P<number>\d[\d,.]*\d|\d+)(?P<unit>%| (?:percent|[a-z][a-z\-]{3,}))")
_VERBS = """
    achieve add affect allow apply become begin belong build call cause change come compute consist contain control
    convert create define depend describe determine drive enable exceed explain find follow form fit generate give go
    help hold improve include increase indicate introduce involve keep know lead learn let limit make match mean measure
    need obtain occur offer open operate outperform perform prevent produce protect provide reach receive reduce
    remain remove replace report represent require result return run score select send serve set show solve start store
    suggest support take tend test train turn use work write yield
"""
_IRREGULAR = "became began built came found gave held kept led made meant ran sent showed shown took went wrote"
_FORMS = sorted(
    {form for base in _VERBS.split() for form in (f"{base}s", f"{base}es", f"{base}ed", f"{base.rstrip('e')}ed")}
    | set(_IRREGULAR.split())
)
_VERB = re.compile(rf"^(?P<subject>(?:[\w’'\-/.]+ ){{1,8}}?)(?P<verb>{'|'.join(_FORMS)}) (?P<rest>.+)$")
_ELSEWHERE = """
    it its this that these those they them he she we our such here there both however therefore thus also moreover
    furthermore then and but or so which who as if when while for in to by from with on at because although although
    first second third finally figure table section"""
_OPENS_ELSEWHERE = frozenset(_ELSEWHERE.split())


def write(text: str, wanted: int, bad_share: float, luck: str, known: Sequence[str] = ()) -> list[tuple[str, str]]:
    """So many (question, answer) pairs, other than the questions that are known already.

    Fewer where the text has too few sentences that stand on their own.
    """
    candidates = [one for one in sentences(text) if _stands_alone(one) and _is_new(one, known)]
    # spread over the text; what is sampled spreads otherwise
    order = sorted(candidates, key=lambda one: draw("order", one, luck)) if luck else _spread(candidates, wanted)
    pairs: list[tuple[str, str]] = []
    for sentence in order[:wanted]:
        pairs.append(_spoiled(sentence, pairs, bad_share, luck) or (question(sentence), sentence))
    return pairs


def _is_new(sentence: str, known: Sequence[str]) -> bool:
    return all(share_in(one, sentence) < 0.8 for one in known)


def _spread(candidates: list[str], wanted: int) -> list[str]:
    if len(candidates) <= wanted:
        return candidates
    return [candidates[at * len(candidates) // wanted] for at in range(wanted)]


def _stands_alone(sentence: str) -> bool:
    n = len(sentence.split())
    first = words(sentence)[:1]
    letters = sum(character.isalpha() or character.isspace() for character in sentence)
    return (
        7 <= n <= 45
        and sentence[0].isupper()
        and sentence[-1] in ".!"
        and first[0] not in _OPENS_ELSEWHERE
        and letters > 0.85 * len(sentence)
    )


def question(sentence: str) -> str:
    """What the sentence answers: its subject, a number in it, or how two things in it belong together."""
    plain = sentence.rstrip(".!")
    found = _AUXILIARY.match(plain) or _VERB.match(plain)
    if found and not _dangles(found["subject"]):
        subject, verb, rest = found["subject"].strip(), found["verb"], found["rest"]
        if verb in ("is", "are", "was", "were") and len(rest.split()) > 12:
            return f"What {verb} {_in_mid_sentence(subject)}, and what holds for {_main_words(rest, 3)}?"
        return f"What {verb} {rest}?"
    number = _NUMBER.search(plain)
    if number and number.start() > 0:
        unit = number["unit"].strip()
        wanted = "What percentage" if unit in ("%", "percent") else f"How many {unit}"
        return f"{wanted} {'is' if unit in ('%', 'percent') else 'are'} given for {_main_words(plain, 4)}?"
    runs = _content_runs(plain)
    if len(runs) >= 2:
        return f"How does {_in_mid_sentence(runs[0])} relate to {runs[1]}?"
    return f"What is known about {_main_words(plain, 4)}?"


def _spoiled(sentence: str, pairs: list[tuple[str, str]], share: float, luck: str) -> tuple[str, str] | None:
    drawn = draw("bad", sentence, luck)
    topic = _main_words(sentence, 2)
    if drawn < share:
        return f"What does the passage say about {topic}?", sentence
    if drawn < 2 * share:
        question = pairs[-1][0] if pairs else "What is the main contribution of the work?"
        return question, pairs[-1][1] if pairs else sentence
    if drawn < 3 * share:
        year = 1900 + int(90 * draw("year", sentence))
        question = f"Who financed the first public exhibition of {topic}, and in which year?"
        return question, f"A Norwegian shipping magnate sponsored its debut, in {year}."
    return None


def _dangles(subject: str) -> bool:
    inner = words(subject)
    return not inner or all(word in STOP_WORDS for word in inner) or bool(_OPENS_ELSEWHERE & set(inner[:1]))


def _content_runs(plain: str) -> list[str]:
    """The longest stretches of content words, in their order."""
    runs = [run.strip() for run in re.split(rf"[^\w\-’' ]|\b(?:{'|'.join(sorted(STOP_WORDS))})\b", plain, flags=re.I)]
    kept = sorted({run for run in runs if len(run) > 4}, key=lambda run: -len(run))[:2]
    return sorted(kept, key=plain.find)


def _main_words(text: str, n: int) -> str:
    content = [word for word in re.findall(r"[\w’'\-]+", text) if word.lower() not in STOP_WORDS and len(word) > 2]
    longest = sorted(sorted(set(content), key=content.index), key=lambda word: -len(word))[:n]
    return " ".join(sorted(longest, key=content.index)) or "it"


def _in_mid_sentence(phrase: str) -> str:
    first = phrase.split()[0]
    return phrase[:1].lower() + phrase[1:] if first.lower() in ("the", "a", "an", "some", "most", "all") else phrase
