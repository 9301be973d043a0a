"""The score of 1 to 5 in a judge's answer.

Judges do not keep to the form that they are asked for. What can be read in one way only is read; all else is no value
but a reason, because a number that the judge did not mean would stand in a mean without anybody noticing. So another
scale is not converted, and of two different scores none is taken.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from radit_job.rag.thoughts import without_thoughts

LOWEST, HIGHEST = 1.0, 5.0
# The example in LlamaIndex's correctness prompt: small judges repeat it, whatever they are asked about.
PROMPT_EXAMPLE = "exact same metrics as the reference answer"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a judge's answer says: a value, or why there is none."""

    value: float | None
    reason: str = ""  # a few words that can be counted


_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufe0e\ufe0f\u20e3\ufeff]")
_MARKUP = re.compile(r"</\w+>|```(?:\w*\n)?|\\(?:boxed|text|n)|[*`~#{}$\"“”„«»‘「」]|(?<!\w)'|'(?!\w)")


def plain(text: str) -> str:
    """The answer without its thoughts and markup; full-width digits, other apostrophes and minus signs are ASCII."""
    text = re.sub(r"\s?½", ".5", _INVISIBLE.sub("", without_thoughts(text)))
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("’", "'").replace("n't", " not")
    text = re.sub(r"<([A-Za-z]\w*)>", r"\1: ", text)
    return _MARKUP.sub("", text.replace("_", " ")).strip()


# A number that is no part of a longer one, of a word, a date, a time or a version.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
_NUMBER = rf"(?<![^\W{_CJK}])(?<![.,/+-])(?P<value>-?(?:\d+(?:[.,]\d{{1,2}})?|\.\d+))(?![.,:]?\d|[^\W{_CJK}]|[+\u2044])"
_WORDS = {"one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "ten": 10.0}
_WORD = r"\b(?P<word>one|two|three|four|five)\b(?=\s*(?:$|[.,;:)\n]|out of|stars?\b|points?\b))"
_OF = r"(?:/|(?:out\s+of(?:\s+a\s+(?:possible|maximum\s+of))?|von|sur|sobre|de|su|из)\s)"
_UNIT = (
    r"(?:\s*(?:points?|stars?|punkten?|sterne|étoiles?|puntos?|estrellas?|pontos?|punti|stelle|балл(?:а|ов)?)\b"
    r"|\s*(?:点|分|점)(?![钟鐘間之満]))?"
)
_RANGE = r"(?:\s*(?:[-–—~,]|\b(?:to|or|and|bis|oder|ou|o|y|или)\b)\s*(?P<other>\d+(?:[.,]\d+)?)\b)?"
_SCALE = rf"(?:\s*{_OF}\s*(?P<scale>\d+(?:[.,]\d+)?|five|ten)(?![\d/]|[^\W{_CJK}]))?"
_SCORE = rf"(?:{_NUMBER}|{_WORD}){_SCALE}{_UNIT}{_RANGE}(?P<percent>\s*%)?"
_REASONS = r"because|since|as|for|due|given|with|weil|denn|da|car|parce|puisque|porque|ya|perché|poiché|потому|так"
# What may follow, so that no "3 facts" is a score.
_END = (
    rf"(?=\s*(?:$|[.,;:!)(\]|。、]|–|—|(?:{_REASONS}|bewerten|geben|vergeben)\b|(?-i:[A-ZÀ-ÖØ-ÞА-Я])|です|である|입니다)"
    r"|\s+-|-\s|\s+(?:to\s+th|to\s+it\b|à\s+|a\s+(?:esta|la)\b|für\s+))"
)

# "1 to 5" and its like describe the scale and are no scores.
_TO = r"\s*(?:-|–|—|to|and|bis|à|a|до|~)\s*"
_DESCRIPTION = re.compile(
    rf"\(?\s*(?:(?:on\s+)?(?:a|the)\s+scale\s+(?:of|from)\s+|\b(?:from|between|von|de)\s+)?\b[01]{_TO}5\b(?!\s*/|[.,]\d)\s*\)?"
    r"|\(\s*(?:out\s+of|von|sur|de|max\.?|из)\s*5\s*\)|\(\s*1\s*(?:=|is\b|:)[^)\n]*\b5\b[^)\n]*\)",
    re.IGNORECASE,
)
_OUT_OF_5_IN_FRONT = re.compile(
    r"\(?(?:5\s*点満点(?:中|で)?|满分\s*[为是]?\s*5\s*分|滿分\s*5\s*分|5\s*점\s*만점(?:에|중)?)[,\s)得]*"
)
_OTHER_SCALE = re.compile(rf"\b(?:scale|skala|échelle|escala|scala|шкал\w+)\b.{{0,15}}\b[01]{_TO}(?:10|100)\b", re.I)
_LABELS = (
    r"score|rating|grade|mark|bewertung|punktzahl|gesamtbewertung|note|calificación|puntuación|puntaje|nota|pontuação"
    r"|avaliação|punteggio|voto|valutazione|оценка|балл|рейтинг|ocena|cijfer|beoordeling|betyg|puan|điểm"
    r"|评分|得分|分数|評分|分數|评价|評価|評点|スコア|点数|採点|점수|평점|평가|स्कोर|अंक|الدرجة|التقييم"
)
_KIND = r"(?:\s+(?:finale?|globale?|totale?|general|complessivo))?"
_LABEL = rf"(?<![^\W{_CJK}])(?:{_LABELS}){_KIND}"
_ASPECTS = (
    r"relevan\w+|correctness|accuracy|completeness|conciseness|clarity|coherence|fluency|faithfulness|helpfulness"
)
_SIGN = r"[\s()\[\]]*(?:[:=|]|->|→|\s[-–—]\s)[\s:|()\[\]]*"
_ABOUT = r"\s*(?:\b(?:an?|about|around|approximately|roughly|eine?|une?|una)\s+)?"
_IS = r"(?:\b(?:is|of|as|was|would\s+be|should\s+be|at|ist|lautet|est|de|es|é|è)\s*:?\s+|\s*(?:是|为|為|は|는|은)\s*)"
_I_GIVE = (
    r"(?:\bI\s*(?:would|will|'d|'ll)?\s+(?:(?!not|never)\w+\s+)?(?:give|rate|score|assign|award|grade)\b"
    r"|\b(?:deserves|merits|warrants|earns|gets|receives|be\s+given|is\s+given)\s+an?\b|\bich\s+(?:gebe|vergebe|bewerte|würde)\b"
    r"|\bje\s+(?:donne|donnerais|mets)\b|\ble\s+(?:doy|daría)\b|\beu\s+(?:daria|dou)\b|\bпостави\w*\b|\bставлю\b"
    r"|[给給打])"
)


def _form(before: str, after: str) -> re.Pattern[str]:
    return re.compile(before + _SCORE + after, re.IGNORECASE | re.MULTILINE)


_LINE = _form(r"^[\s>|(\[]*", r"[ \t.)\]|!。]*$")
_OPENING = _form(
    r"\A", rf"(?=\s*[:;\n]|\.\s|\)\s|\s+[-–—]|-\s|\s*\([^)\n]*\)\s*$|,?\s+(?:{_REASONS})\b|\s+(?-i:The|This|It)\b)"
)
_LABELLED = _form(rf"(?:{_LABEL}|\boverall|\bverdict){_SIGN}{_ABOUT}", _END)
_LABELLED_LINE = _form(rf"^\W*(?:final\s+|overall\s+)?{_LABEL}\s+", r"\W*$")
_SENTENCE = _form(rf"{_LABEL}(?:[^\S\n]+(?!is\b|of\b)[^\W\d]+){{0,6}}?\s*{_IS}{_ABOUT}", _END)
_GIVEN = _form(rf"{_I_GIVE}[^.\n\d]{{0,45}}?", _END)
_OUT_OF_FIVE = _form(r"(?:^|[.:;(]\s*|\b(?:an?|say|is|at|with)\s+)", _END)
_ASPECT = _form(rf"\b(?:{_ASPECTS})(?:\s+(?:score|rating))?{_SIGN}", _END)

_NOT_THE_SCORE = re.compile(
    rf"(?:\b(?:max|maximum|min|minimum|highest|lowest|perfect|full|possible|passing|reference|example|previous|{_ASPECTS})\W*"
    r"|\b(?:if|unless|had)\b[^.\n]*"
    r"|\b(?:not|cannot|never|than|instead\s+of|short\s+of|would\s+have|nicht|pas|не)\b[^.,;\n]{0,30})$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Said:
    value: float
    fault: str


def read_score(text: str) -> Reading:
    """The score in a judge's answer.

    What stands in the form of a verdict (a line of its own, behind "Score:" in many languages, in JSON, at the start)
    goes before what is said in a sentence, and that before the score of one aspect.
    """
    if not text.strip():
        return Reading(None, "an empty answer")
    if PROMPT_EXAMPLE in text:
        return Reading(None, "the prompt's own example")
    whole = plain(text)
    is_list = bool(re.match(r"1[.)]\s+(?=[^\W\d])", whole))  # "1. The answer ..." may go on with 2.
    said = _DESCRIPTION.sub(" ", _OUT_OF_5_IN_FRONT.sub(" score: ", whole))
    verdicts = [_LINE, _LABELLED, _LABELLED_LINE] if is_list else [_LINE, _LABELLED, _LABELLED_LINE, _OPENING]
    if found := _scores(verdicts, said):
        found += [score for score in _scores([_GIVEN], said) if not score.fault]
    else:
        found = _scores([_SENTENCE, _GIVEN], said) or _scores([_OUT_OF_FIVE], said, with_scale=True)
    found = found or _scores([_ASPECT], said)
    if found and _OTHER_SCALE.search(whole):
        return Reading(None, "another scale than 1 to 5")
    if not found:
        return Reading(None, "a list's number or a score" if is_list else "no score")
    return _only(found)


def _only(found: Sequence[_Said]) -> Reading:
    """The one score that they all give; a range stands back behind a score ("4 to 5 are for ...: 4")."""
    single = [score for score in found if score.fault != "a range"] or found
    if len({score.value for score in single}) > 1:
        return Reading(None, "two different scores")
    fault = next((score.fault for score in single if score.fault), "")
    return Reading(None, fault) if fault else Reading(single[0].value)


def _scores(forms: Sequence[re.Pattern[str]], text: str, *, with_scale: bool = False) -> list[_Said]:
    return [_said(match) for form in forms for match in _matches(form, text) if match["scale"] or not with_scale]


def _matches(form: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    for match in form.finditer(text):
        start = match.start("value") if match["value"] else match.start("word")
        line = text[text.rfind("\n", 0, start) + 1 : start]
        label = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if form is _ASPECT or form is _LINE or not (_NOT_THE_SCORE.search(label) or _NOT_THE_SCORE.search(line)):
            yield match


def _said(match: re.Match[str]) -> _Said:
    value = _number(match["value"] or match["word"])
    if match["other"]:
        return _Said(value, "a range")
    if match["percent"] or (match["scale"] and _number(match["scale"]) != HIGHEST):
        return _Said(value, "another scale than 1 to 5")
    return _Said(value, "" if LOWEST <= value <= HIGHEST else "outside 1 to 5")


def _number(text: str) -> float:
    return _WORDS[text.lower()] if text.lower() in _WORDS else float(text.replace(",", "."))
